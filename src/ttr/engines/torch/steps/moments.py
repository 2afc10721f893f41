"""One token of a memory that is the moments U and H of an exact solve."""

from __future__ import annotations

import torch
from torch import Tensor

from ttr.engines.torch.direct_solve import refuse_without_digits, solve_spd, without_digits
from ttr.engines.torch.steps.matrix import decay
from ttr.inputs import Inputs, needs_composite
from ttr.problem import Problem
from ttr.state import State


def advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    form = problem.lower(x)
    log_decay = None if form.log_decay is None else form.log_decay[:, 0]
    query, key, value = form.query[:, 0], form.key[:, 0], form.value[:, 0]
    weighted = key if form.log_importance is None else key * form.log_importance[:, 0, :, None].exp()
    gram = decay(form.gram, log_decay) + weighted[..., None] * key[:, :, None]
    moment = decay(form.memory, log_decay) + weighted[..., None] * value[:, :, None]
    if problem.solver.exact:
        return form.finish(x, ridge_read(gram, moment, form.ridge, query)[:, None], gram, moment)

    matrix = gram if form.ridge is None else gram + torch.diag_embed(form.ridge)
    solution = problem.solver.iterate(
        lambda y: (y[..., None, :] @ matrix)[..., 0, :], squared_norm(gram), query
    )
    solution = mixed(solution, query, None if form.mix is None else form.mix[:, 0])
    return form.finish(x, (solution[..., None, :] @ moment).transpose(1, 2), gram, moment)


def mixed(solution: Tensor, right: Tensor, mix: Tensor | None) -> Tensor:
    """The vector at which the moments are read: the solution [..., F], mixed with the right-hand side [...,
    F] by ``mix`` [...] where there is one (Gated KalmaNet)."""
    return solution if mix is None else mix[..., None] * solution + (1 - mix[..., None]) * right


def squared_norm(matrix: Tensor) -> Tensor:
    """||M||_F^2 of [..., F, F], in float64 where the device has it: squares leave the range of float32
    early."""
    return matrix.to(matrix.dtype if matrix.device.type == "mps" else torch.float64).square().sum((-2, -1))


def ridge_read(gram: Tensor, moment: Tensor, ridge: Tensor, query: Tensor) -> Tensor:
    """y = U^T (H + diag(ridge))^-1 q: [B,H,F,F], [B,H,F,V], [H,F], [B,H,F] -> [B,H,V].

    Raises:
        ValueError: if a system is singular, or so nearly that y would be rounding errors.
    """
    matrix = gram + torch.diag_embed(ridge)
    solution = solve_spd(matrix, query)
    if needs_composite():  # values cannot be checked here, so rows without digits become NaN
        solution = torch.where(
            without_digits(matrix.norm(dim=(-2, -1)), solution, query)[..., None], torch.nan, solution
        )
    else:
        refuse_without_digits(matrix.norm(dim=(-2, -1)), solution, query)
    return (solution[..., None, :] @ moment)[..., 0, :]
