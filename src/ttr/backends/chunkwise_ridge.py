"""Ridge regression at every token, in chunks: matrix products between chunks, one solve for all tokens at once."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from ttr.backends.backend import Backend
from ttr.backends.implicit_solve import System, solve
from ttr.backends.lowering import linear_form
from ttr.backends.position_bias import CumulativeDecay
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State

KEPT = {"matrix": "one matrix", "pairs": "the pairs themselves"}


class ChunkwiseRidge(Backend):
    """y_t = U_t^T x_t with (H_t + diag(ridge)) x_t = q_t, H_t = sum_i gamma_i k_i k_i^T and U_t = sum_i gamma_i k_i v_i^T.

    With the moments H_0, U_0 that enter a chunk, W_ti = gamma_i^(t) inside it and a_t = what token t keeps of H_0 (MesaNet,
    arXiv 2506.05233): solve (sum_i W_ti k_i k_i^T + a_t H_0 + diag(ridge)) x_t = q_t, then Y = a * (X U_0) + (W * (X K^T)) V.
    No token's H_t is formed, unless its system is too ill-conditioned for conjugate gradient.
    """

    name: ClassVar[str] = "chunkwise-ridge"
    composite: ClassVar[bool] = False

    def __init__(self, chunk: int = 32) -> None:
        self.chunk = chunk

    def small(self) -> ChunkwiseRidge:
        return ChunkwiseRidge(chunk=4)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.memory != "moments":
            return f"It solves a ridge regression from its two moments, and this memory keeps {KEPT.get(problem.memory, 'other things')} instead."
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        form = linear_form(problem, x)
        none = torch.zeros_like(form.key[..., 0])
        log_decay, importance = ((none if log is None else log)[..., None] for log in (x.log_decay, x.log_importance))
        query, key, value, log_decay, importance = (self._chunks(t) for t in (form.query, form.key, form.value, log_decay, importance))
        decay, whole = CumulativeDecay.of(log_decay[..., 0]), slice(None)
        future = torch.ones(query.shape[-2], query.shape[-2], dtype=torch.bool, device=query.device).triu(1)
        inside = (decay.between(whole, whole).to(query) + importance.mT).masked_fill(future, -torch.inf).exp()
        kept, to_end = (log.exp().to(query)[..., None] for log in (decay.since_start(), decay.to_end()))

        states = [torch.cat([x.state["gram"], x.state["memory"]], dim=-1)]
        written = (to_end * importance.exp() * key).mT @ torch.cat([key, value], dim=-1)
        for last, new in zip(kept[..., -1:, :].unbind(2), written.unbind(2)):
            states.append(last * states[-1] + new)
        gram, memory = torch.stack(states, dim=2)[:, :, :-1].split([key.shape[-1], value.shape[-1]], dim=-1)
        y = _read(query, key, value, inside, kept, gram, memory, x.controls["ridge"])
        y = y.flatten(2, 3)[:, :, : x.length].transpose(1, 2)
        gram, memory = states[-1].split([key.shape[-1], value.shape[-1]], dim=-1)
        return y, x.state.replace(gram=gram, memory=memory, position=x.state.position + x.length)

    def _chunks(self, tensor: Tensor) -> Tensor:
        """[B,T,H,D] as [B,H,T/C,C,D], the last chunk filled with zeros: pairs without weight that forget nothing."""
        time = tensor.shape[1]
        size = min(self.chunk, max(time, 1))
        return pad(tensor, (0, 0, 0, 0, 0, -time % size)).unflatten(1, (-1, size)).permute(0, 3, 1, 2, 4)


def _read(query: Tensor, key: Tensor, value: Tensor, inside: Tensor, kept: Tensor, gram: Tensor, memory: Tensor, ridge: Tensor) -> Tensor:
    """The read-outs of all chunks: [B,H,N,C,.] for tokens, [B,H,N,C,C] for ``inside``, [B,H,N,F,.] for the moments before."""
    lead = query.shape[:3]
    rows = ridge[:, None, None].expand(*lead, 1, -1)
    groups = (t.flatten(0, 2) for t in (inside, key, rows, kept, gram, query))
    weights, keys, rows, share, before, right = groups
    solution = solve(System(weights, keys, rows, kept=share, gram=before), right).unflatten(0, lead)
    return kept * (solution @ memory) + (inside * (solution @ key.mT)) @ value
