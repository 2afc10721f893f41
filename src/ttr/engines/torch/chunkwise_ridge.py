"""Ridge regression at every token, in chunks: matrix products between chunks, one solve for all tokens at
once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ttr.engines.engine import Engine
from ttr.engines.native.moments import Unsolved
from ttr.engines.torch import compiled_moments
from ttr.engines.torch.implicit_solve import System, solve
from ttr.engines.torch.ridge import regression
from ttr.engines.torch.ridge.block import cut, factors
from ttr.engines.torch.ridge.regression import Regression
from ttr.engines.torch.ridge.system import squared_norms
from ttr.engines.torch.steps.moments import mixed
from ttr.forms import SecondMoments
from ttr.inputs import Inputs
from ttr.problem import Problem, Solver
from ttr.state import State


class ChunkwiseRidge(Engine):
    """y_t = U_t^T x_t with (H_t + diag(ridge)) x_t = q_t, H_t = sum_i gamma_i k_i k_i^T and U_t = sum_i
    gamma_i k_i v_i^T.

    With the moments H_0, U_0 that enter a chunk, W_ti = gamma_i^(t) inside it and a_t the decay of H_0 at
    token t (MesaNet, arXiv 2506.05233): solve (sum_i W_ti k_i k_i^T + a_t H_0 + diag(ridge)) x_t = q_t, then
    Y = a * (X U_0) + (W * (X K^T)) V. No token's H_t is formed, unless its system is too ill-conditioned for
    conjugate gradient.
    """

    name: ClassVar[str] = "chunkwise-ridge"
    composite: ClassVar[bool] = False
    adaptive: ClassVar[bool] = True  # the preconditioner of a chunk depends on its decay

    def __init__(self, chunk: int = 32) -> None:
        self.chunk = chunk

    def small(self) -> ChunkwiseRidge:
        return ChunkwiseRidge(chunk=4)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.form is not SecondMoments:
            return "It solves a ridge regression from its two moments, which this memory does not have."
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        form = problem.lower(x)
        if form.gram.numel() == 0:  # without features or rows nothing is learned and 0 is read
            y = torch.einsum("bthf,bhfv->bthv", form.query, form.memory)
            return form.finish(x, y, form.gram, form.memory)
        call = Regression.of(form)
        size = min(self.chunk, max(x.length, 1))
        steps = solve if problem.solver.exact else functools.partial(_truncated, problem.solver, x.wants_grad)
        run = functools.partial(differentiable, chunk=size, solver=steps)
        if problem.solver.exact:
            run = functools.partial(regression.run, chunk=size, differentiable=run)
        kernel = compiled_moments.kernel_of(problem.solver, call)
        try:
            y, gram, memory = run(call) if kernel is None else compiled_moments.run(call, size, kernel, run)
        except Unsolved:
            y, gram, memory = run(call)
        return form.finish(x, y, gram, memory)


def differentiable(
    call: Regression, chunk: int, solver: Callable[[System, Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Read-outs and the moments after the call by torch's own operations, all chunks at once, for truncated
    solvers, which are differentiated through their steps, and for second derivatives."""
    lead = call.query.shape[:1] + call.query.shape[2:3]
    query, key, value, log_decay, importance = (cut(t, chunk).transpose(0, 1) for t in call[:5])
    inside, since_start, to_end = factors(log_decay, importance)
    since_start = since_start[..., None]

    states = [torch.cat([call.gram, call.memory], dim=-1).flatten(0, 1)]
    written = (to_end[..., None] * key).mT @ torch.cat([key, value], dim=-1)
    for last, new in zip(since_start[..., -1:, :].unbind(1), written.unbind(1)):
        states.append(last * states[-1] + new)
    sizes = [key.shape[-1], value.shape[-1]]
    gram, memory = torch.stack(states, dim=1)[:, :-1].split(sizes, dim=-1)
    ridge = call.ridge[:, None, None].expand(*lead, key.shape[1], 1, -1)
    system = System(
        *(t.flatten(0, 1) for t in (inside, key)),
        ridge.flatten(0, 2),
        decay=since_start.flatten(0, 1),
        gram=gram.flatten(0, 1),
    )
    right = query.flatten(0, 1)
    mix = None if call.mix is None else cut(call.mix, chunk).transpose(0, 1).flatten(0, 1)
    solution = mixed(solver(system, right), right, mix).unflatten(0, query.shape[:2])
    y = since_start * (solution @ memory) + (inside * (solution @ key.mT)) @ value
    y = y.unflatten(0, lead).flatten(2, 3).transpose(1, 2)[:, : call.query.shape[1]]
    return y, *states[-1].unflatten(0, lead).split(sizes, dim=-1)


def _truncated(solver: Solver, wants_grad: bool, system: System, right: Tensor) -> Tensor:
    """The steps of a truncated solver; their intermediate results are recomputed for gradients."""

    def product(y: Tensor) -> Tensor:
        return (
            checkpoint(system.product, y, use_reentrant=False, preserve_rng_state=False)
            if wants_grad
            else system.product(y)
        )

    norms = squared_norms(system.weights, system.keys, system.decay, system.gram)
    return solver.iterate(product, norms, right)
