"""Solve the systems of all tokens of some chunks, each row to a residual that is measured."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ttr.engines.torch.direct_solve import HOPELESS, refuse_without_digits, solve_spd
from ttr.engines.torch.ridge import preconditioner
from ttr.engines.torch.ridge.preconditioner import Preconditioner
from ttr.engines.torch.ridge.system import System

TARGET, REFINED, ROUNDING, ACCEPTED = 4, 8, 1, 8
"""Conjugate gradient stops at a residual of TARGET eps |b| by its recursion, and restarts from one that is
measured above REFINED eps |b| (1e-6 |b| in float32), unless rounding x alone may cost that, ROUNDING eps
|A||x|. In the end a row is accepted at ACCEPTED eps |b|, or ACCEPTED eps |A||x| where that is larger."""

ROUNDS = 4
"""The largest number of starts."""

ELEMENTS = 2**22
"""Numbers in the largest temporary of a direct solve."""


@dataclass
class Report:
    """Statistics of the solves of one call."""

    iterations: int = 0
    rows: int = 0
    preconditioned_rows: int = 0
    direct_rows: int = 0
    residual: float = 0.0

    def facts(self) -> dict[str, object]:
        """As ``ttr.diagnostics()`` reports them; the residual is the largest |b - A x| / |b|."""
        return {"solver": "conjugate gradient", **dataclasses.asdict(self)}


def solve(
    system: System, right: Float[Tensor, "G C F"], factors: Float[Tensor, "g L F"] | None, report: Report
) -> tuple[Float[Tensor, "G C F"], Float[Tensor, "g L F"]]:
    """x with A_t x_t = right_t, and the preconditioner's factors, which another call with the same matrices
    can reuse.

    In chunks with little decay conjugate gradient is preconditioned by blocked recursive least squares,
    elsewhere by the diagonal; rows that do not converge are solved directly, in float64. Rows do not depend
    on each other: one that has converged is left as it is.

    Raises:
        ValueError: if a matrix is singular, or so nearly that the working precision leaves no digit of the
            output.
    """
    size = torch.linalg.vector_norm(right, torch.inf, dim=-1, keepdim=True)
    size = torch.where(size > 0, size, 1.0)
    # so that no squared norm under- or overflows, and a scaled query gives a scaled solution
    right = right / size
    near = preconditioner.fits(system)
    solution, residual = torch.empty_like(right), torch.empty_like(right)
    for chosen, diagonal in ((near, False), (~near, True)):
        part = system.select(chosen)
        if not diagonal and factors is None:
            factors = preconditioner.factorise(part)
        if part.decay.numel():
            report.preconditioned_rows += 0 if diagonal else part.decay.numel()
            method = (
                preconditioner.jacobi(part)
                if diagonal
                else preconditioner.recursive_least_squares(part, factors)
            )
            found = _iterate(part, method, right if part is system else right[chosen], report)
            solution, residual = (
                found
                if part is system
                else (whole.index_put((chosen,), x) for whole, x in zip((solution, residual), found))
            )
    _correct(system, right, solution, residual.norm(dim=-1), report)
    return solution.mul_(size), factors


def _iterate(
    system: System, method: Preconditioner, right: Float[Tensor, "G C F"], report: Report
) -> tuple[Tensor, Tensor]:
    """x by conjugate gradient, and b - A x as measured."""
    eps, length = torch.finfo(right.dtype).eps, right.norm(dim=-1, keepdim=True)
    solution, residual, iterations, left, error = torch.zeros_like(right), right, 0, length > 0, length
    for _ in range(ROUNDS):
        change, taken = _conjugate_gradient(method, torch.where(left, residual, 0.0), TARGET * eps * length)
        solution, iterations = solution.add_(change), iterations + taken
        residual = right - system.product(solution)
        before, error = error, residual.norm(dim=-1, keepdim=True)
        left = (error > REFINED * eps * length) & (error < before / 2)
        if bool(left.any()):
            left &= error > ROUNDING * eps * system.diagonal().amax(-1, keepdim=True) * solution.norm(
                dim=-1, keepdim=True
            )
        if not bool(left.any()):
            break
    report.iterations = max(report.iterations, iterations)
    return solution, residual


def _conjugate_gradient(
    method: Preconditioner, residual: Float[Tensor, "G C F"], bound: Float[Tensor, "G C 1"]
) -> tuple[Tensor, int]:
    """Conjugate gradient from 0, with ``residual`` overwritten by what is left of it. A row that has
    converged is left as it is, to the last bit, whatever the others need."""
    solution, direction, image, energy, iterations = torch.zeros_like(residual), None, None, None, 0
    active, limit = residual.norm(dim=-1, keepdim=True) > bound, residual.shape[-1] + 16
    while iterations < limit and bool(active.any()):
        iterations += 1
        preconditioned = method.invert(residual)
        before, energy = energy, torch.linalg.vecdot(residual, preconditioned)[..., None]
        if direction is None:
            direction, image = preconditioned, residual.clone()
        else:
            ratio = torch.where(active, energy / before, 0.0)
            for new, old in ((preconditioned, direction), (residual, image)):
                torch.addcmul(new, ratio, old, out=old)
        product = method.product(direction, image)  # the image is that by the preconditioner, M x
        curvature = torch.linalg.vecdot(direction, product)[..., None]
        active = active & (curvature > 0) & (energy > 0)
        step = torch.where(active, energy / curvature, 0.0)
        solution.addcmul_(step, direction)
        residual.addcmul_(step, product, value=-1)
        active = active & (residual.norm(dim=-1, keepdim=True) > bound)
    return solution, iterations


def _correct(
    system: System,
    right: Float[Tensor, "G C F"],
    solution: Float[Tensor, "G C F"],
    found: Float[Tensor, "G C"],
    report: Report,
) -> None:
    """Solve directly the rows whose residuals were found too large, and refuse systems whose solution has no
    correct digits."""
    eps, length = torch.finfo(right.dtype).eps, right.norm(dim=-1)
    wrong = ~(found <= ACCEPTED * eps * length)
    if bool((wrong | ~(eps * system.trace() * solution.norm(dim=-1) <= HOPELESS * length)).any()):
        largest = system.diagonal().amax(-1)
        wrong &= ~(found <= ACCEPTED * eps * largest * solution.norm(dim=-1))
        if bool(wrong.any()):
            _solve_directly(system, right, solution, wrong, report)
            found = (right - system.product(solution)).norm(dim=-1)
        refuse_without_digits(system.norm(), solution, right)
    report.rows += found.numel()
    if found.numel():
        report.residual = max(report.residual, (found / torch.where(length > 0, length, 1.0)).max().item())


def _solve_directly(
    system: System, right: Tensor, solution: Tensor, wrong: Bool[Tensor, "G C"], report: Report
) -> None:
    """Put solutions by Cholesky factors into the rows that are wrong."""
    group, row = wrong.nonzero(as_tuple=True)
    keys = system.keys
    limit = max(ELEMENTS // max(keys.shape[1] * keys.shape[2], keys.shape[2] ** 2, 1), 1)
    for g, r in zip(group.split(limit), row.split(limit)):
        solution[g, r] = solve_spd(system.matrices(g, r), right[g, r])
    report.direct_rows += len(group)
