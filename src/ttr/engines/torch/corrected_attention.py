"""Softmax attention to values that the older pairs have corrected, by one triangular system per block of
tokens."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ttr.engines.engine import Engine
from ttr.engines.torch.attention import grouped_product
from ttr.forms import CorrectedPairs
from ttr.forms.pair_weights import PairWeights, probabilities
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State
from ttr.torch_internals import is_transformed


class CorrectedAttention(Engine):
    """U = V - diag(beta) P U, Y = Q U, where row t of P and of Q is the softmax of the logits of the pairs j
    < t and j <= t.

    P is strictly lower triangular. For a block of tokens, with the values U_0 of the older ones known, it
    splits into P_0 and the block's own part P_1, and (I + diag(beta) P_1) U_1 = V_1 - diag(beta) P_0 U_0 is a
    unit lower triangular system. The blocks follow one another; memory grows linearly with T.
    """

    name: ClassVar[str] = "corrected-attention"

    def __init__(self, block: int = 128) -> None:
        self.block = block

    def small(self) -> CorrectedAttention:
        return CorrectedAttention(block=4)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.form is not CorrectedPairs:
            return (
                "It corrects every value by the prediction of the older pairs, and this solver does not "
                "change values."
            )
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        form = problem.lower(x)
        pairs, step = form.weights, form.step.mT[..., None]
        query, keys, values = (t.transpose(1, 2) for t in (form.scaled_query, form.key, form.value))
        past, fresh = values.split([pairs.slots, x.length], dim=2)
        transformed = is_transformed()
        recompute = (
            x.wants_grad and x.length > self.block and not transformed and not torch.compiler.is_compiling()
        )
        values, outputs = [past], [fresh.new_zeros(*fresh.shape[:2], 0, fresh.shape[-1])]
        for start, *block in zip(
            range(0, x.length, self.block), *(part.split(self.block, dim=2) for part in (query, step, fresh))
        ):
            arguments = (pairs, start, *block, keys, *values)
            y, new = (
                checkpoint(_block, *arguments, use_reentrant=False, preserve_rng_state=False)
                if recompute
                else _block(*arguments)
            )
            outputs.append(y)
            values.append(new)
        corrected = torch.cat([fresh[:, :, :0], *values[1:]], dim=2).transpose(1, 2)
        return form.finish(x, torch.cat(outputs, dim=2).transpose(1, 2), corrected)


def _block(
    pairs: PairWeights, start: int, query: Tensor, step: Tensor, fresh: Tensor, keys: Tensor, *values: Tensor
) -> tuple[Tensor, Tensor]:
    """Read-outs and corrected values [B,H,C,V] of the C tokens from ``start``; ``values`` are those of slots
    and older tokens, in parts."""
    size = query.shape[2]
    known = pairs.seen(torch.cat([*values, fresh], dim=2), start, start + size)[:, :, :-size]
    logits = grouped_product(query, pairs.seen(keys, start, start + size).mT) + pairs.block(
        start, start + size
    )
    own = torch.eye(size, dtype=torch.bool, device=query.device)
    own = torch.cat([own.new_zeros(size, known.shape[2]), own], dim=1)
    strict = step * probabilities(logits.masked_fill(own, -torch.inf), True)
    past, inside = strict.split([known.shape[2], size], dim=-1)
    new = torch.linalg.solve_triangular(inside, fresh - past @ known, upper=False, unitriangular=True)
    return probabilities(logits, pairs.importance is not None) @ torch.cat([known, new], dim=2), new
