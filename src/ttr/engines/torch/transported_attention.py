"""Softmax attention to keys that later tokens transport by reflections, block by block of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ttr.engines.engine import Engine
from ttr.engines.torch.attention import grouped_product
from ttr.engines.torch.chunks import split
from ttr.forms import TransportedPairs
from ttr.forms.pair_weights import PairWeights, probabilities
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State
from ttr.torch_internals import is_transformed


@dataclass(frozen=True)
class Transport:
    """The reflections of M chunks of C tokens; W, Q, K [C,F] are a chunk's transport keys, queries and keys.

    Column k goes through H_1, ..., H_t (H_j = I - beta_j w_j w_j^T) as through a delta rule without values:
    H_t ... H_1 k = k - sum_{j<=t} w_j u_j with u_j = beta_j (w_j.k - sum_{l<j} w_j.w_l u_l), so u solves the
    unit lower triangular system (I + A) u = beta W k, A = tril(beta W W^T, -1). This is the WY form of a
    product of reflections (Bischof, Van Loan, 1987). For the chunk's own key k_i the product starts after i:
    the right-hand side is 0 up to row i.

        inside [M,B,H,C,C]  q_t^T H_t ... H_{i+1} k_i
        query  [M,B,H,C,F]  H_1 ... H_t q_t: to be multiplied with keys at the chunk's start
        key    [M,B,H,C,F]  H_C ... H_{i+1} k_i: the keys at the chunk's end
        whole  [M,B,H,F,F]  H_C ... H_1
    """

    inside: Tensor
    query: Tensor
    key: Tensor
    whole: Tensor

    @staticmethod
    def of(query: Tensor, key: Tensor, w: Tensor, step: Tensor) -> Transport:
        """From [M,B,H,C,F] and steps [M,B,H,C,1]."""
        scaled = step * w
        right = torch.cat([scaled, (scaled @ key.mT).tril(-1)], dim=-1)
        solved = torch.linalg.solve_triangular(
            (scaled @ w.mT).tril(-1), right, upper=False, unitriangular=True
        )
        through, own = solved.split([w.shape[-1], key.shape[-2]], dim=-1)
        met = (query @ w.mT).tril()
        identity = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)
        return Transport(
            (query @ key.mT).tril() - met @ own,
            query - met @ through,
            key - own.mT @ w,
            identity - w.mT @ through,
        )


class TransportedAttention(Engine):
    """y_t = sum softmax_i(q_t^T H_t ... H_{i+1} k_i + log gamma_i) v_i (PaTH attention, arXiv 2505.16381).

    Inside a chunk of tokens the products are those of ``Transport``. For older chunks the queries are
    multiplied, newest chunk first, with one product [F,F] per chunk. The work is O(T^2 F) like that of
    attention; these products are recomputed for the gradient, so memory grows linearly with T.
    """

    name: ClassVar[str] = "transported-attention"

    def __init__(self, block: int = 64) -> None:
        self.block = block

    def small(self) -> TransportedAttention:
        return TransportedAttention(block=4)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.form is not TransportedPairs:
            return "It runs memories whose keys later tokens transport, and here keys do not change."
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        form, size = problem.lower(x), min(self.block, max(x.length, 1))
        pairs = form.weights
        slots, key = form.key.split([pairs.slots, x.length], dim=1)
        operands = (form.scaled_query, key, form.transport_key, form.step[..., None])
        transport = Transport.of(*(split(tensor, size) for tensor in operands))
        chunks = [
            parts.unbind() for parts in (transport.inside, transport.query, transport.key, transport.whole)
        ]
        slots, values = slots.transpose(1, 2), form.value.transpose(1, 2)
        transformed = is_transformed()
        recompute = x.wants_grad and x.length > size and not transformed and not torch.compiler.is_compiling()
        outputs = [values.new_zeros(*slots.shape[:2], 0, values.shape[-1])]
        for number, start in enumerate(range(0, x.length, size)):
            arguments = (
                pairs,
                start,
                min(size, x.length - start),
                slots,
                values,
                *(parts[: number + 1] for parts in chunks),
            )
            outputs.append(
                checkpoint(_block, *arguments, use_reentrant=False, preserve_rng_state=False)
                if recompute
                else _block(*arguments)
            )
        return form.finish(
            x, torch.cat(outputs, dim=2).transpose(1, 2), *_at_the_end(slots, transport, x.length)
        )


def _block(
    pairs: PairWeights,
    start: int,
    size: int,
    slots: Tensor,
    values: Tensor,
    inside: tuple[Tensor, ...],
    queries: tuple[Tensor, ...],
    keys: tuple[Tensor, ...],
    wholes: tuple[Tensor, ...],
) -> Tensor:
    """The read-outs [B,H,C,V] of the newest of the given chunks, whose ``size`` tokens begin at ``start``."""
    first, length = pairs.first_seen(start), keys[0].shape[-2]
    moved, logits = queries[-1], [inside[-1]]
    for number in reversed(range(len(keys) - 1)):
        if slots.shape[2] + (number + 1) * length <= first:
            break
        logits.append(moved @ keys[number].mT)
        moved = moved @ wholes[number]
    else:
        logits.append(moved @ slots.mT)
    seen = torch.cat(logits[::-1], dim=-1)[:, :, :size]
    # places before the oldest chunk in the loop
    hidden = slots.shape[2] + start + length - seen.shape[-1]
    bias = pairs.block(start, start + size)
    weights = probabilities(
        seen[..., first - hidden :][..., : bias.shape[-1]] + bias, pairs.importance is not None
    )
    return grouped_product(weights, pairs.seen(values, start, start + size))


def _at_the_end(slots: Tensor, transport: Transport, length: int) -> tuple[Tensor, Tensor]:
    """The keys of the slots [B,N,H,F] and the new ones [B,T,H,F] as they are after the last token.

    The product of all later chunks comes from the last chunk backwards; the zeros that pad that chunk
    transport nothing."""
    later = [torch.eye(slots.shape[-1], dtype=slots.dtype, device=slots.device).expand_as(transport.whole[0])]
    for whole in transport.whole.unbind()[::-1]:
        later.append(later[-1] @ whole)
    new = (transport.key @ torch.stack(later[-2::-1]).mT).movedim((0, 2), (1, 3)).flatten(1, 2)
    return (slots @ later[-1].mT).transpose(1, 2), new[:, :length]
