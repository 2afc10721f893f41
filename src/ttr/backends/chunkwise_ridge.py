"""Ridge regression at every token, in chunks: matrix products between chunks, one solve for all tokens at once."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from ttr.backends.backend import Backend
from ttr.backends.implicit_solve import System, solve
from ttr.backends.lowering import linear_form
from ttr.backends.position_bias import CumulativeDecay
from ttr.backends.truncated_solve import truncated_solve
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State

KEPT = {"matrix": "one matrix", "pairs": "the pairs themselves", "levels": "one matrix per level", "nothing": "nothing"}


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
            return f"It solves a ridge regression from its two moments, and this memory keeps {KEPT.get(problem.memory, 'something else')} instead."
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
        y = self._read(problem, x, query, key, value, inside, kept, gram, memory)
        y = y.flatten(2, 3)[:, :, : x.length].transpose(1, 2)
        gram, memory = states[-1].split([key.shape[-1], value.shape[-1]], dim=-1)
        return y, x.state.replace(gram=gram, memory=memory, position=x.state.position + x.length)

    def _chunks(self, tensor: Tensor) -> Tensor:
        """[B,T,H,D] as [B,H,T/C,C,D], the last chunk filled with zeros: pairs without weight that forget nothing."""
        time = tensor.shape[1]
        size = min(self.chunk, max(time, 1))
        return pad(tensor, (0, 0, 0, 0, 0, -time % size)).unflatten(1, (-1, size)).permute(0, 3, 1, 2, 4)

    def _read(self, problem: Problem, x: Inputs, query: Tensor, key: Tensor, value: Tensor, inside: Tensor, kept: Tensor, gram: Tensor,
              memory: Tensor) -> Tensor:
        """The read-outs of all chunks: [B,H,N,C,.] for tokens, [B,H,N,C,C] for ``inside``, [B,H,N,F,.] for the moments before."""
        lead = query.shape[:3]
        ridge = x.controls["ridge"] if "ridge" in x.controls else query.new_zeros(query.shape[1], query.shape[-1])
        rows = ridge[:, None, None].expand(*lead, 1, -1)
        weights, keys, rows, share, before, right = (t.flatten(0, 2) for t in (inside, key, rows, kept, gram, query))
        system = System(weights, keys, rows, kept=share, gram=before)
        if problem.solver.iteration is None:
            solution = solve(system, right)
        else:
            mix = self._chunks(x.controls["mix"][..., None]).flatten(0, 2)[..., 0] if "mix" in x.controls else None

            def product(y: Tensor) -> Tensor:  # what it computes on the way is computed again when gradients are asked for
                return checkpoint(system.product, y, use_reentrant=False, preserve_rng_state=False) if x.wants_grad else system.product(y)

            solution = truncated_solve(problem.solver, product, _squared_norms(system), right, mix)
        solution = solution.unflatten(0, lead)
        return kept * (solution @ memory) + (inside * (solution @ key.mT)) @ value


def _squared_norms(system: System) -> Tensor:
    """||H_t||_F^2 [G,R] of every row, without H_t: with G_ij = k_i.k_j, H_t = a_t H_0 + sum_i W_ti k_i k_i^T has
    a_t^2 ||H_0||^2 + 2 a_t sum_i W_ti k_i^T H_0 k_i + sum_ij W_ti G_ij^2 W_tj. No term is negative."""
    wide = system.keys.dtype if system.keys.device.type == "mps" else torch.float64
    weights, keys, share, before = (t.to(wide) for t in (system.weights, system.keys, system.kept[..., 0], system.gram))
    across = ((keys @ before) * keys).sum(-1)
    inside = ((weights @ (keys @ keys.mT).square()) * weights).sum(-1)
    return share.square() * before.square().sum((-2, -1))[:, None] + 2 * share * (weights @ across[..., None])[..., 0] + inside
