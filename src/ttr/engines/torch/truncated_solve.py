"""Iterations that define a solution by their number of steps, for many right-hand sides at once.

The product with the moments comes as a callable, so that a step of one token and all rows of all chunks share
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ttr.problem import Solver


def chebyshev(
    solver: Solver, product: Callable[[Tensor], Tensor], squared_norm: Tensor, right: Tensor
) -> Tensor:
    """x in the residual form of Saad, Iterative methods for sparse linear systems, algorithm 12.1, on
    [lambda, lambda + f] with
    f = ||H||_F and lambda = ratio f: centre theta, half width delta, and shares rho_j of consecutive
        Chebyshev polynomials."""
    norm = torch.where(squared_norm > 0, squared_norm, 1.0).sqrt()[..., None].to(right)
    ridge = solver.ratio * norm
    delta = norm / 2
    theta = ridge + delta
    sigma = theta / delta
    rho, residual, x = 1 / sigma, right, torch.zeros_like(right)
    direction = right / theta
    for _ in range(solver.iterations):
        x = x + direction
        residual = residual - product(direction) - ridge * direction
        following = 1 / (2 * sigma - rho)
        direction = following * rho * direction + (2 * following / delta) * residual
        rho = following
    return x + direction


def conjugate_gradient(
    solver: Solver, product: Callable[[Tensor], Tensor], squared_norm: Tensor, right: Tensor
) -> Tensor:
    """x of damped conjugate gradient from 0; ``product`` includes the ridge."""
    x, residual, direction = torch.zeros_like(right), right, right
    energy = right.square().sum(-1, keepdim=True)
    for _ in range(solver.iterations):
        image = product(direction)
        step = energy / ((direction * image).sum(-1, keepdim=True) + solver.damping)
        x, residual = x + step * direction, residual - step * image
        before, energy = energy, residual.square().sum(-1, keepdim=True)
        direction = residual + energy / (before + solver.damping) * direction
    return x


ITERATIONS: Mapping[str, Callable[[Solver, Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]] = {
    "chebyshev": chebyshev,
    "conjugate gradient": conjugate_gradient,
}
"""``Solver.iteration`` -> the function that takes its steps."""


def truncated_solve(
    solver: Solver,
    product: Callable[[Tensor], Tensor],
    squared_norm: Tensor,
    right: Tensor,
    mix: Tensor | None,
) -> Tensor:
    """What the moments U are read at: the solution [..., F], mixed with the right-hand side [..., F] by
    ``mix`` [...] where given.

    ``product`` is that with H, and with H + diag(ridge) where the problem has a ridge; ``squared_norm`` [...]
    is ||H||_F^2.
    """
    solution = ITERATIONS[solver.iteration](solver, product, squared_norm, right)
    return solution if mix is None else right + mix[..., None] * (solution - right)
