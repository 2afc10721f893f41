"""Networks that take a step at every token along gradients at the weights of the last chunk boundary, chunk
by chunk."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Component
from ttr.engines.engine import Engine
from ttr.engines.torch.grid import Grid
from ttr.engines.torch.networks import Inner, apply, inner_pairs, mapped, spread
from ttr.forms import Network
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


class MiniBatch(Engine):
    """The dual form of TTT (arXiv 2407.04620) and Titans (2501.00663) for any network: no token's weights are
    formed, unless it reads with a map of them (a ``mirror``).

    Inside a chunk everything is linear in the gradients at W_b, and the gradient of a pair in a matrix is the
    outer product of its input x_j and slope s_j, step included. With A_0 the weights that enter and Z_0 their
    momentum, the recurrence of a chunk gives

        A_i = a_i A_0 + z_i Z_0 - sum_{j<=i} G_ij x_j s_j^T
        W_i = W_b + e_i (A_i - W_b)

    with coefficients a, z and G that are the same for all matrices, and e_i = read_step or 1. So an input h_i
    of token i times W_i is a sum of h W_b, h A_0, h Z_0 and the earlier pairs of the chunk with scores
    h_i.x_j. With a mirror the W_i are formed and mapped.
    """

    name: ClassVar[str] = "mini-batch"

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.form is not Network:
            return "It runs networks that learn by a gradient step at every token."
        solver = problem.solver
        if solver.orthogonalise is not None or solver.window > 1:
            return (
                "It needs weights that are a sum of the gradients of single pairs, which an orthogonalised "
                "step or a window prevents."
            )
        if solver.chunk == 1:
            return "Chunks of one token leave nothing to compute together."
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        solver, function = problem.solver, problem.function
        if not x.length:
            return x.v.new_zeros(x.v.shape[0], 0, x.heads, x.v.shape[-1]), x.state
        grid = Grid(x.state.position, x.length, solver.chunk)
        form = problem.lower(x)
        extra = {name: grid.chunks(x.controls[name], fill=1.0) for name in solver.loss.controls()}
        table = coefficients(problem, x, grid)
        state = _Weights.of(x.state, form.names)
        outputs = []
        for m, chunk in enumerate(form.split(grid.chunks)):
            controls = {name: c[m] for name, c in extra.items()}
            base = mapped(solver.mirror, state.base, form.matrices)
            inner = inner_pairs(function, solver.loss, chunk, base, controls)
            inner = {
                name: (inputs, chunk.step[..., None] * slopes) for name, (inputs, slopes) in inner.items()
            }
            here = table.chunk(m)
            read = functools.partial(_read, state, inner, here, solver.mirror)
            outputs.append(function.forward(read, chunk.query, form.params))
            state = state.after(inner, here, grid.full(m, solver.chunk))
        return grid.join(outputs), x.state.replace(
            **state.tensors(solver.momentum), position=x.state.position + x.length
        )


@dataclass(frozen=True)
class _Coefficients:
    """For every token, [M,B,C,H]: the coefficients ``kept`` of A_0 and ``moved`` of Z_0 in A_i, and
    ``read_step``; [M,B,H,C,C]: ``pairs`` G; for the momentum after the last token: ``momentum_kept`` [M,B,H]
    of Z_0 and ``momentum_pairs`` [M,B,H,C]. ``chunk(m)`` are those of one chunk."""

    kept: Tensor
    moved: Tensor
    pairs: Tensor
    momentum_kept: Tensor
    momentum_pairs: Tensor
    read_step: Tensor

    def chunk(self, m: int) -> _Coefficients:
        return _Coefficients(
            self.kept[m],
            self.moved[m],
            self.pairs[m],
            self.momentum_kept[m],
            self.momentum_pairs[m],
            self.read_step[m],
        )


def coefficients(problem: Problem, x: Inputs, grid: Grid) -> _Coefficients:
    """By running the recurrence on rows of numbers, [1 for A_0, 1 for Z_0, C for the pairs], in all chunks at
    once.

    Empty places of the grid add nothing to the weights, and their slopes are 0.
    """
    like, size = x.controls["step_size"], grid.size
    one = torch.ones_like(like)
    gates = [
        one if x.log_decay is None else x.log_decay.exp(),
        x.controls.get("momentum", 0 * one),
        x.controls.get("read_step", one),
    ]
    decay, momentum, read = (grid.chunks(gate, fill=1.0) for gate in gates)
    there = grid.chunks(one)
    unit = torch.eye(size + 2, dtype=like.dtype, device=like.device)
    weights = unit[0].expand(*there[:, :, 0].shape, -1)
    moving = unit[1].expand_as(weights)
    rows = []
    for i in range(size):
        moving = moving * momentum[:, :, i, :, None] - unit[2 + i]
        weights = weights * decay[:, :, i, :, None] + there[:, :, i, :, None] * moving
        rows.append(weights)
    table = torch.stack(rows, dim=2)
    return _Coefficients(
        table[..., 0], table[..., 1], -table[..., 2:].transpose(2, 3), moving[..., 1], moving[..., 2:], read
    )


@dataclass(frozen=True)
class _Weights:
    """The weights at the last boundary, the change since, and the momentum, each [B,H,...] by name."""

    base: Mapping[str, Tensor]
    change: Mapping[str, Tensor]
    momentum: Mapping[str, Tensor]

    @staticmethod
    def of(state: State, names: tuple[str, ...]) -> _Weights:
        still = {name: torch.zeros_like(state[name]) for name in names}
        return _Weights(
            {name: state[name] for name in names},
            {name: state[f"change.{name}"] for name in names},
            {name: state.tensors.get(f"momentum.{name}", still[name]) for name in names},
        )

    def after(self, inner: Inner, here: _Coefficients, full: Tensor) -> _Weights:
        """After a chunk: in the rows [B] where it is ``full`` the change becomes part of the base."""
        base, change, momentum = {}, {}, {}
        for name, start in self.base.items():
            inputs, slopes = inner[name.removesuffix("_bias")]
            kept, moved = spread(here.kept[:, -1], start), spread(here.moved[:, -1], start)
            moved_by = (
                (kept - 1) * start
                + kept * self.change[name]
                + moved * self.momentum[name]
                - _sum(name, inputs, slopes, here.pairs[:, :, -1])
            )
            momentum[name] = spread(here.momentum_kept, start) * self.momentum[name] + _sum(
                name, inputs, slopes, here.momentum_pairs
            )
            ends = spread(full, start)
            base[name] = torch.where(ends, start + spread(here.read_step[:, -1], start) * moved_by, start)
            change[name] = moved_by.masked_fill(ends, 0.0)
        return _Weights(base, change, momentum)

    def tensors(self, with_momentum: bool) -> dict[str, Tensor]:
        """The state's."""
        parts = {"change": self.change} | ({"momentum": self.momentum} if with_momentum else {})
        return {
            **self.base,
            **{f"{part}.{name}": x for part, tensors in parts.items() for name, x in tensors.items()},
        }


def _sum(name: str, inputs: Tensor, slopes: Tensor, weights: Tensor) -> Tensor:
    """sum_j weights_j x_j s_j^T for weights [B,H,C], or of the slopes alone for a bias."""
    weighted = weights[..., None] * slopes.transpose(1, 2)
    return weighted.sum(2) if name.endswith("_bias") else inputs.permute(0, 2, 3, 1) @ weighted


def _read(
    state: _Weights, inner: Inner, here: _Coefficients, mirror: Component | None, name: str, h: Tensor
) -> Tensor:
    """h_i W_i + b_i for every token of a chunk: h [B,C,H,I] -> [B,C,H,O]."""
    if mirror is not None:
        tokens = range(h.shape[1])
        reads = (apply(_mapped(state, inner, here, mirror, name, i), name, h[:, i : i + 1]) for i in tokens)
        return torch.cat(list(reads), dim=1)
    inputs, slopes = (tensor.transpose(1, 2) for tensor in inner[name])
    scores = h.transpose(1, 2) @ inputs.mT
    if f"{name}_bias" in state.base:
        scores = scores + 1
    earlier = ((scores * here.pairs) @ slopes).transpose(1, 2)
    start = apply(state.base, name, h)
    change = (
        (here.kept - 1)[..., None] * start + here.kept[..., None] * apply(state.change, name, h) - earlier
    )
    change = change + here.moved[..., None] * apply(state.momentum, name, h)
    return start + here.read_step[..., None] * change


def _mapped(
    state: _Weights, inner: Inner, here: _Coefficients, mirror: Component, name: str, i: int
) -> dict[str, Tensor]:
    """The map of the matrix with which token i of a chunk reads, and its bias, [B,H,...] by name."""
    found = {}
    for own in (own for own in (name, f"{name}_bias") if own in state.base):
        start = state.base[own]
        kept, moved, read = (spread(x[:, i], start) for x in (here.kept, here.moved, here.read_step))
        change = (kept - 1) * start + kept * state.change[own] + moved * state.momentum[own]
        found[own] = start + read * (change - _sum(own, *inner[name], here.pairs[:, :, i]))
    return mapped(mirror, found, (name,))
