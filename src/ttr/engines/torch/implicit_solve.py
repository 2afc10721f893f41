"""Solve the weighted least-squares systems of many queries at once, without forming their matrices.

Row t of a group solves for x_t in A_t x_t = q_t with

    A_t = sum_i w_ti k_i (k_i - m_t)^T + a_t G + diag(ridge),        symmetric positive definite,

where m_t is 0, or the mean sum_i w_ti k_i of weights that sum to 1, so that the sum is their covariance, and
G holds the moments of pairs that came before the group. One product with all A_t is two matrix products of
the size of the scores: (W * (X K^T - X.m)) K (MesaNet, arXiv 2506.05233, section 3; local linear attention,
2510.01450).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.diagnostics import record
from ttr.engines.torch.direct_solve import solve_spd

TARGET, ACCEPTED = 4, 32
"""Conjugate gradient stops at a residual of TARGET eps |A||x| by its recursion, and a row is accepted at
ACCEPTED eps |A||x| as measured afterwards. A residual of c eps |A||x| means an error of at most c eps cond(A)
|x|: what a direct solve promises."""

ELEMENTS = 2**22
"""Numbers in the largest temporary of a direct solve."""


class System(NamedTuple):
    """The matrices A_t of R rows in each of G groups; see the head of this file."""

    weights: Float[Tensor, "G R N"]
    keys: Float[Tensor, "G N F"]
    ridge: Float[Tensor, "#G #R F"]
    mean: Float[Tensor, "G R F"] | None = None
    decay: Float[Tensor, "G R 1"] | None = None
    gram: Float[Tensor, "G F F"] | None = None

    def product(self, x: Float[Tensor, "G R F"]) -> Float[Tensor, "G R F"]:
        """A_t x_t for every row."""
        if self.mean is None:
            scores = x @ self.keys.mT
        else:
            scores = torch.baddbmm((x * self.mean).sum(-1, keepdim=True), x, self.keys.mT, beta=-1)
        y = torch.addcmul(scores.mul_(self.weights) @ self.keys, self.ridge, x)
        return y if self.gram is None else torch.addcmul(y, self.decay, x @ self.gram)

    def diagonal(self) -> Float[Tensor, "G R F"]:
        """The diagonals of all A_t."""
        diagonal = self.weights @ self.keys.square()
        if self.mean is not None:
            diagonal = (diagonal - self.mean.square()).clamp(min=0)
        if self.gram is not None:
            diagonal = diagonal + self.decay * self.gram.diagonal(dim1=-2, dim2=-1)[:, None]
        return diagonal + self.ridge

    def matrices(self, group: Tensor, row: Tensor) -> Float[Tensor, "n F F"]:
        """The matrices of some rows, in float64 where the device has it."""
        wide = self.keys.dtype if self.keys.device.type == "mps" else torch.float64
        keys, weights = self.keys[group].to(wide), self.weights[group, row].to(wide)[..., None]
        if self.mean is not None:
            keys = keys - (weights * keys).sum(1, keepdim=True)
        matrix = (weights * keys).mT @ keys + torch.diag_embed(
            self.ridge.expand(*self.weights.shape[:2], -1)[group, row].to(wide)
        )
        return (
            matrix
            if self.gram is None
            else matrix + self.decay[group, row].to(wide)[..., None] * self.gram[group].to(wide)
        )


def solve(system: System, right: Float[Tensor, "G R F"]) -> Float[Tensor, "G R F"]:
    """x with A_t x_t = right_t, each row to the accuracy of a direct solve.

    Differentiable any number of times: the gradient is the implicit function theorem's, one more solve with
    the same matrices.
    """
    return _Solve.apply(right, *system)


class _Solve(torch.autograd.Function):
    """x = A^-1 b: db = A^-1 dx, and dA enters through -db . d(A x) at fixed x. A is symmetric."""

    @staticmethod
    def forward(ctx: Any, right: Tensor, *tensors: Tensor | None) -> Tensor:
        solution = solve_rows(right, *tensors)
        ctx.save_for_backward(solution, *tensors)
        return solution

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        solution, *tensors = ctx.saved_tensors
        adjoint = solve(System(*tensors), gradient)
        twice = torch.is_grad_enabled()
        with torch.enable_grad():
            system = System(*(None if t is None else t.view_as(t) for t in tensors))
            wanted = [t for t, needed in zip(system, ctx.needs_input_grad[1:]) if needed]
            found = iter(
                torch.autograd.grad(system.product(solution), wanted, -adjoint, create_graph=twice)
                if wanted
                else ()
            )
        return adjoint, *(next(found) if needed else None for needed in ctx.needs_input_grad[1:])


@torch.library.custom_op(
    "ttr::solve_rows",
    mutates_args=(),
    schema="(Tensor right, Tensor weights, Tensor "
    "keys, Tensor ridge, Tensor? mean, "
    "Tensor? decay, Tensor? gram) -> Tensor",
)
def solve_rows(
    right: Tensor,
    weights: Tensor,
    keys: Tensor,
    ridge: Tensor,
    mean: Tensor | None,
    decay: Tensor | None,
    gram: Tensor | None,
) -> Tensor:
    """Conjugate gradient for all rows of a ``System``, and a direct solve of those it does not bring to the
    accuracy asked for.

    An operator, because batched gradients (``is_grads_batched``) cannot control an iteration: torch calls it
    once for each.
    """
    system = System(weights, keys, ridge, mean, decay, gram)
    size = right.abs().amax(-1, keepdim=True)
    size = torch.where(size > 0, size, 1.0)
    # so that no squared norm under- or overflows, and a scaled query gives a scaled solution
    right = right / size
    diagonal = system.diagonal()
    solution, converged, iterations = _conjugate_gradient(system, right, diagonal)
    error = _backward_error(system, right, diagonal, solution)
    group, row = (~(converged & (error <= ACCEPTED * torch.finfo(right.dtype).eps))).nonzero(as_tuple=True)
    if len(group):
        limit = max(
            ELEMENTS // max(system.keys.shape[1] * system.keys.shape[2], system.keys.shape[2] ** 2, 1), 1
        )
        for g, r in zip(group.split(limit), row.split(limit)):
            solution[g, r] = solve_spd(system.matrices(g, r), right[g, r])
        error = _backward_error(system, right, diagonal, solution)
    worst = error.max() if error.numel() else error.sum()
    record(
        solver="conjugate gradient",
        iterations=iterations,
        rows=error.numel(),
        direct_rows=len(group),
        residual=worst,
    )
    return solution * size


def _backward_error(system: System, right: Tensor, diagonal: Tensor, solution: Tensor) -> Tensor:
    """|b - A x| / (|A| |x|) of every row [G,R], with |b| in place of |A||x| where that is larger (both are at
    most |A||x| at the solution) and the largest diagonal entry as a lower bound of |A|."""
    residual = (right - system.product(solution)).norm(dim=-1)
    return residual / _scale(right, diagonal, solution)


def _scale(right: Tensor, diagonal: Tensor, solution: Tensor) -> Tensor:
    scale = torch.maximum(right.norm(dim=-1), diagonal.amax(-1) * solution.norm(dim=-1))
    return torch.where(scale > 0, scale, 1.0)


def _conjugate_gradient(system: System, right: Tensor, diagonal: Tensor) -> tuple[Tensor, Tensor, int]:
    """Jacobi-preconditioned conjugate gradient. A row that has converged is left as it is, to the last bit,
    whatever the others need."""
    target = TARGET * torch.finfo(right.dtype).eps
    inverse = torch.where(diagonal > 0, diagonal, 1.0).reciprocal()
    largest, length = diagonal.amax(-1, keepdim=True), right.norm(dim=-1, keepdim=True)
    solution, residual = torch.zeros_like(right), right.clone()
    direction = inverse * residual
    energy = (residual * direction).sum(-1, keepdim=True)
    active, broken = length > 0, torch.zeros_like(length, dtype=torch.bool)
    limit, iterations = right.shape[-1] + 16, 0
    while iterations < limit and active.any():
        iterations += 1
        image = system.product(direction)
        curvature = (direction * image).sum(-1, keepdim=True)
        broken = broken | (active & ~(curvature > 0))
        active = active & ~broken
        step = torch.where(active, energy / curvature, 0.0)
        solution.addcmul_(step, direction)
        residual.addcmul_(step, image, value=-1)
        scale = torch.maximum(length, largest * solution.norm(dim=-1, keepdim=True))
        active = active & (residual.norm(dim=-1, keepdim=True) > target * scale)
        preconditioned = inverse * residual
        new_energy = (residual * preconditioned).sum(-1, keepdim=True)
        direction = torch.addcmul(preconditioned, torch.where(active, new_energy / energy, 0.0), direction)
        energy = new_energy
    return solution, ~(active | broken)[..., 0], iterations
