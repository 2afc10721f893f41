"""Solve the systems of all tokens of some chunks, each row to a residual that is measured."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ttr.backends.ridge import preconditioner
from ttr.backends.ridge.preconditioner import Preconditioner
from ttr.backends.ridge.system import System

TARGET, ACCEPTED = 4, 32
"""Conjugate gradient stops at a residual of TARGET eps |b| as its recursion sees it (5e-7 |b| in float32). A row is believed at
ACCEPTED eps |b| as measured afterwards, or ACCEPTED eps |A||x| where that is larger: what rounding x alone may cost."""

HOPELESS = 1.0
"""The largest eps |A||x| / |b| at which an output has digits."""

ELEMENTS = 2**22
"""Numbers in the largest temporary of a direct solve."""


@dataclass
class Report:
    """What the solves of one call came to."""

    iterations: int = 0
    rows: int = 0
    preconditioned_rows: int = 0
    direct_rows: int = 0
    residual: float = 0.0

    def facts(self) -> dict[str, object]:
        """As ``ttr.diagnostics()`` tells them; the residual is the largest |b - A x| / |b|."""
        return {"solver": "conjugate gradient", **dataclasses.asdict(self)}


def solve(system: System, right: Float[Tensor, "G C F"], factors: Float[Tensor, "g C+F F"] | None,
          report: Report) -> tuple[Float[Tensor, "G C F"], Float[Tensor, "g C+F F"]]:
    """x with A_t x_t = right_t, and the preconditioner's factors, which another call with the same matrices takes.

    Where a chunk forgets little conjugate gradient is preconditioned by blocked recursive least squares, elsewhere by the diagonal;
    rows that do not converge are solved directly, in float64. Rows do not depend on each other: one that has converged is left as it is.

    Raises:
        ValueError: if a matrix is singular, or so nearly that the working precision leaves no digit of the output.
    """
    size = right.abs().amax(-1, keepdim=True)
    size = torch.where(size > 0, size, 1.0)
    right = right / size  # so that no squared norm under- or overflows, and a scaled query gives a scaled solution
    near = preconditioner.fits(system)
    solution = torch.empty_like(right)
    for chosen, fading in ((near, False), (~near, True)):
        if not bool(chosen.any()):
            factors = right.new_empty(0, *system.pairs.shape[1:]) if factors is None and not fading else factors
            continue
        part = system.select(chosen)
        if fading:
            precondition = preconditioner.jacobi(part.diagonal())
        else:
            factors = preconditioner.recursive_least_squares(part) if factors is None else factors
            precondition = preconditioner.apply(part, factors)
            report.preconditioned_rows += part.kept.numel()
        whole = part is system
        found, iterations = _conjugate_gradient(part, right if whole else right[chosen], precondition)
        report.iterations = max(report.iterations, iterations)
        if whole:
            solution = found
        else:
            solution[chosen] = found
    _correct(system, right, solution, report)
    return solution.mul_(size), factors


def _conjugate_gradient(system: System, right: Float[Tensor, "G C F"], precondition: Preconditioner) -> tuple[Tensor, int]:
    """Conjugate gradient from 0. A row that has converged is left as it is, to the last bit, whatever the others need."""
    scores, shares = torch.empty_like(system.weights), right.new_empty(*right.shape[:2], system.pairs.shape[1])
    bound = TARGET * torch.finfo(right.dtype).eps * right.norm(dim=-1, keepdim=True)
    solution, residual, image = torch.zeros_like(right), right.clone(), torch.empty_like(right)
    direction = precondition(residual).clone()
    energy = torch.linalg.vecdot(residual, direction)[..., None]
    active = bound > 0
    limit, iterations = right.shape[-1] + 16, 0
    while iterations < limit and bool(active.any()):
        iterations += 1
        torch.bmm(system.shares(direction, scores, shares), system.pairs, out=image).addcmul_(system.ridge, direction)
        curvature = torch.linalg.vecdot(direction, image)[..., None]
        step = torch.where(active & (curvature > 0), energy / curvature, 0.0)
        solution.addcmul_(step, direction)
        residual.addcmul_(step, image, value=-1)
        active = active & (step > 0) & (residual.norm(dim=-1, keepdim=True) > bound)
        preconditioned = precondition(residual)
        new_energy = torch.linalg.vecdot(residual, preconditioned)[..., None]
        direction.mul_(torch.where(active, new_energy / energy, 0.0)).add_(preconditioned)
        energy = new_energy
    return solution, iterations


def _correct(system: System, right: Float[Tensor, "G C F"], solution: Float[Tensor, "G C F"], report: Report) -> None:
    """Measure the residuals of all rows, solve directly those that are too large, and refuse what has no digits."""
    eps = torch.finfo(right.dtype).eps
    length = right.norm(dim=-1)
    found = _residual(system, right, solution)
    wrong = ~(found <= ACCEPTED * eps * length)
    if bool((wrong | ~(eps * system.trace() * solution.norm(dim=-1) <= HOPELESS * length)).any()):
        largest = system.diagonal().amax(-1)
        wrong &= ~(found <= ACCEPTED * eps * largest * solution.norm(dim=-1))
        found = _solve_directly(system, right, solution, wrong, found, report)
        hopeless = eps * largest * solution.norm(dim=-1) > HOPELESS * length
        if bool(hopeless.any()):
            raise ValueError("The regression is too ill-conditioned for its dtype: the pairs and the ridge hardly fix it, and the output would have no "
                             "digit. Use a larger ridge, or float64 inputs.")
    report.rows += found.numel()
    if found.numel():
        report.residual = max(report.residual, (found / torch.where(length > 0, length, 1.0)).max().item())


def _residual(system: System, right: Tensor, solution: Tensor) -> Float[Tensor, "G C"]:
    return torch.bmm(system.shares(solution), system.pairs).addcmul_(system.ridge, solution).sub_(right).norm(dim=-1)


def _solve_directly(system: System, right: Tensor, solution: Tensor, wrong: Bool[Tensor, "G C"], found: Tensor, report: Report) -> Tensor:
    """Put solutions by Cholesky factors into the rows that are wrong; the residuals of all rows."""
    group, row = wrong.nonzero(as_tuple=True)
    if not len(group):
        return found
    keys = system.keys
    limit = max(ELEMENTS // max(keys.shape[1] * keys.shape[2], keys.shape[2] ** 2, 1), 1)
    for g, r in zip(group.split(limit), row.split(limit)):
        matrix = system.matrices(g, r)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if bool(failed.any()):
            raise ValueError("The regression is singular: its pairs do not fix it. Use a larger ridge, or a smaller log_importance.")
        solution[g, r] = torch.cholesky_solve(right[g, r, :, None].to(matrix), factor)[..., 0].to(solution)
    report.direct_rows += len(group)
    return _residual(system, right, solution)
