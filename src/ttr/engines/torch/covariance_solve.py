"""Solve with the weighted covariances of many queries at once: for a block of rows, whose weights are
materialised, and for all of its right-hand sides.

Row t of a group solves for x_t in (Cov_t + diag(ridge_t)) x_t = b_t with Cov_t = sum_i p_ti (k_i - m_t)(k_i -
m_t)^T and m_t = sum_i p_ti k_i, for weights that sum to 1 (or are all 0), by one of three methods:

- few channels: all Cov_t by one product of the weights with the second moments of the pairs, and elimination
  in all rows at once;
- many: conjugate gradient, whose step costs two products of the size of the scores (local linear attention,
  arXiv 2510.01450), preconditioned by the average of the block's matrices: tilting the weights towards a
  query moves the mean of the keys more than their covariance, so that the average is near them all once a row
  has seen many pairs;
- rows that have seen less than two pairs per channel, and rows for which the others fail: their matrices in
  float64, and Cholesky.

With y = vbar - Cov(v, k).x what counts is the error of x in the norm of the matrix A: |Cov(v, k).dx| <= sd(v)
|dx|_A. The iteration measures it as the norm of the residual in the inverse of the preconditioner, relative
to that of the right-hand side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from ttr.diagnostics import record
from ttr.engines.torch.direct_solve import solve_spd, wide_dtype

FEW_CHANNELS = 24
"""Up to here all second moments cost less than the steps of the iteration."""
TARGET = {torch.float32: 2e-5, torch.float64: 1e-11}
"""The relative residual at which the iteration stops. The error of a read-out is mostly below it, since only
its component along Cov(v, k) counts."""
ACCEPTED = 4
"""Rows with a residual above so many times the target are solved directly."""
LEAST_PIVOT = 2.0**-7
"""A pivot that is a smaller fraction than this of its second moment has lost too many digits."""
ELEMENTS = 2**21
"""Products of channels that are materialised at a time."""


class Covariances(NamedTuple):
    """The matrices of R rows in each of G groups; see the head of this file. ``scratch`` is overwritten."""

    weights: Float[Tensor, "G R N"]
    points: Float[Tensor, "G N D"]
    ridge: Float[Tensor, "G R D"]
    mean: Float[Tensor, "G R D"]
    scratch: Float[Tensor, "G R N"]
    second: Float[Tensor, "G D D R"] | None = None

    @staticmethod
    def of(
        weights: Float[Tensor, "G R N"],
        points: Float[Tensor, "G N D"],
        products: Float[Tensor, "G N E"] | None,
        ridge: Float[Tensor, "G R D"],
        scratch: Float[Tensor, "G R N"],
    ) -> Covariances:
        """``products`` are those of ``products_of``."""
        if products is None:
            return Covariances(weights, points, ridge, weights @ points, scratch)
        size = points.shape[-1]
        moments = products.mT @ weights.mT
        second = moments.index_select(1, _entries(size, moments.device)).unflatten(1, (size, size))
        return Covariances(weights, points, ridge, moments[:, :size].mT, scratch, second)

    def tilt(self, x: Float[Tensor, "G R D"]) -> Float[Tensor, "G R N"]:
        """p_ti (k_i - m_t).x_t, in the scratch."""
        offset = (x * self.mean).sum(-1, keepdim=True)
        return torch.baddbmm(offset, x, self.points.mT, beta=-1, out=self.scratch).mul_(self.weights)

    def product(self, x: Float[Tensor, "G R D"]) -> Float[Tensor, "G R D"]:
        """A_t x_t for every row; leaves ``tilt(x)`` in the scratch."""
        tilted = self.tilt(x)
        if self.second is None:
            return torch.addcmul(tilted @ self.points, self.ridge, x)
        along = (
            (self.second * x.mT[:, None])
            .sum(2)
            .mT.addcmul_(self.mean, (self.mean * x).sum(-1, keepdim=True), value=-1)
        )
        return along.addcmul_(self.ridge, x)

    def rows(self, index: Int[Tensor, "G r"]) -> Covariances:
        """Some rows of every group, as many in each."""
        weights, ridge, mean = (_rows(x, index) for x in (self.weights, self.ridge, self.mean))
        return Covariances(
            weights, self.points, ridge, mean, self.scratch.flatten()[: weights.numel()].view_as(weights)
        )

    def average_inverse(self) -> Float[Tensor, "G D D"]:
        """The inverse of the average of a group's matrices, or of its diagonal where that is not positive
        definite; a preconditioner need not be accurate."""
        weight = self.weights.mean(1)[..., None]
        average = (
            (weight * self.points).mT @ self.points
            - self.mean.mT @ self.mean / self.mean.shape[1]
            + torch.diag_embed(self.ridge.mean(1))
        )
        factor, failed = torch.linalg.cholesky_ex(average)
        diagonal = average.diagonal(dim1=-2, dim2=-1)
        plain = torch.diag_embed(torch.where(diagonal > 0, diagonal, 1.0))
        return torch.cholesky_inverse(torch.where(failed[:, None, None] > 0, plain.sqrt(), factor))


def products_of(points: Float[Tensor, "G N D"]) -> Float[Tensor, "G N E"] | None:
    """The channels of all points and their products, each once; None where there are too many."""
    size = points.shape[-1]
    if size > FEW_CHANNELS:
        return None
    products = points.new_empty(*points.shape[:2], size + size * (size + 1) // 2)
    products[..., :size] = points
    for first, part in enumerate(products[..., size:].split(list(range(size, 0, -1)), dim=-1)):
        torch.mul(points[..., first, None], points[..., first:], out=part)
    return products


def _entries(size: int, device: torch.device) -> Int[Tensor, " entries"]:
    """The index in ``products_of`` of every entry of a symmetric matrix."""
    first, other = torch.triu_indices(size, size, device=device)
    place = torch.empty(size, size, dtype=torch.int64, device=device)
    place[first, other] = place[other, first] = torch.arange(size, size + len(first), device=device)
    return place.flatten()


def solve(
    system: Covariances, right: Float[Tensor, "G R D"], few: Bool[Tensor, " R"]
) -> Float[Tensor, "G R D"]:
    """x with A_t x_t = right_t. ``few`` are the rows with less than two pairs per channel. Leaves ``tilt(x)``
    in the scratch."""
    if right.shape[-1] == 0:  # without channels there is no slope
        system.tilt(right)
        return torch.empty_like(right)
    size = right.abs().amax(-1, keepdim=True)
    size = torch.where(size > 0, size, 1.0)
    unit = right / size  # so that no squared norm under- or overflows
    if system.second is None:
        inverse, direct = system.average_inverse(), few.expand(right.shape[:2])
        solution, iterations = _iterate(system, unit, inverse, ~direct)
    else:
        inverse, iterations = None, 0
        solution, direct = _eliminate(system, unit)
    solution = _solve_directly(system, right, direct, solution.mul_(size))
    scale = _norm(unit, inverse)
    scale = torch.where(scale > 0, scale, 1.0)
    error = _norm((right - system.product(solution)) / size, inverse) / scale
    if inverse is not None and (doubtful := ~direct & ~(error <= ACCEPTED * TARGET[right.dtype])).any():
        solution = _solve_directly(system, right, doubtful, solution)
        error, direct = _norm((right - system.product(solution)) / size, inverse) / scale, direct | doubtful
    record(
        solver="elimination" if inverse is None else "conjugate gradient",
        iterations=iterations,
        rows=error.numel(),
        direct_rows=int(direct.sum()),
        residual=error.max() if error.numel() else error.sum(),
    )
    return solution


def _norm(x: Tensor, inverse: Float[Tensor, "G D D"] | None) -> Float[Tensor, "G R"]:
    """The norm of every row, in the inverse of the preconditioner where there is one."""
    return (x * (x if inverse is None else x @ inverse)).sum(-1).clamp(min=0).sqrt()


def _iterate(
    system: Covariances, right: Tensor, inverse: Tensor, wanted: Bool[Tensor, "G R"]
) -> tuple[Tensor, int]:
    """Conjugate gradient for the wanted rows: the solution, and the steps of the slowest row. A row whose
    energy is 0 is frozen: it has converged, or was not wanted. When half of the active rows are frozen, the
    others continue alone. The caller checks whether rows have converged."""
    tiny = torch.finfo(right.dtype).tiny
    solution, x, residual = torch.zeros_like(right), torch.zeros_like(right), right.clone()
    place = torch.arange(right.shape[1], device=right.device).expand(right.shape[:2])
    direction = residual @ inverse
    energy = (residual * direction).sum(-1) * wanted
    enough, iterations = TARGET[right.dtype] ** 2 * energy, 0
    while iterations < right.shape[-1] + 16 and (most := int(energy.count_nonzero(1).max())):
        iterations += 1
        if 2 * most <= energy.shape[1]:
            chosen = energy.argsort(dim=1, descending=True)[:, :most]
            solution.scatter_(1, place[..., None].expand_as(x), x)
            system = system.rows(chosen)
            place, x, residual, direction, energy, enough = (
                _rows(t, chosen) for t in (place, x, residual, direction, energy, enough)
            )
        image = system.product(direction)
        step = energy.div((direction * image).sum(-1).clamp_(min=tiny))[..., None]
        x.addcmul_(step, direction)
        residual.addcmul_(step, image, value=-1)
        preconditioned = residual @ inverse
        before, energy = energy.clamp_(min=tiny), torch.mul(residual, preconditioned, out=image).sum(-1)
        energy.mul_(energy > enough)
        direction = preconditioned.addcmul_(energy.div(before)[..., None], direction)
    return solution.scatter_(1, place[..., None].expand_as(x), x), iterations


def _rows(x: Shaped[Tensor, "G R *rest"], index: Int[Tensor, "G r"]) -> Shaped[Tensor, "G r *rest"]:
    """Some rows of every group, as many in each."""
    return x.gather(1, index.reshape(*index.shape, *(1,) * (x.ndim - 2)).expand(*index.shape, *x.shape[2:]))


def _eliminate(system: Covariances, right: Tensor) -> tuple[Tensor, Bool[Tensor, "G R"]]:
    """Gaussian elimination in all rows at once, in float64 where the device has it, and the rows in which it
    lost too many digits: second moments minus squares of means may cancel."""
    wide, size = wide_dtype(right), right.shape[-1]
    ridge, mean, rows = (x.mT.to(wide) for x in (system.ridge, system.mean, right))
    second = system.second.to(wide)
    table = torch.cat(
        [torch.addcmul(second, mean[:, :, None], mean[:, None], value=-1), rows[:, :, None]], dim=2
    )
    table.diagonal(dim1=1, dim2=2).add_(ridge.mT)
    least = LEAST_PIVOT * second.diagonal(dim1=1, dim2=2).mT
    pivots = []
    for j in range(size):
        pivots.append(table[:, j, j].clone())
        table[:, j, j:] /= pivots[j][:, None]
        table[:, j + 1 :, j + 1 :].addcmul_(table[:, j + 1 :, None, j], table[:, None, j, j + 1 :], value=-1)
    solution = table[:, :, size]
    for j in range(size - 1, 0, -1):
        solution[:, :j].addcmul_(table[:, :j, j], solution[:, None, j], value=-1)
    pivot = torch.stack(pivots, dim=1)
    return solution.mT.to(right.dtype).contiguous(), ~((pivot > 0) & (pivot >= least)).all(1)


def _solve_directly(
    system: Covariances, right: Tensor, wanted: Bool[Tensor, "G R"], solution: Tensor
) -> Tensor:
    """The solution with the wanted rows replaced, from their matrices in float64 where the device has it."""
    wide, size = wide_dtype(right), right.shape[-1]
    some = min(max(ELEMENTS // size**2, 1), 32)  # neighbouring rows, so that early ones use few pairs
    for group in wanted.any(1).nonzero()[:, 0].tolist():
        for row in wanted[group].nonzero()[:, 0].split(some):
            weights = system.weights[group, row]
            seen = int(weights.any(0).nonzero().amax()) + 1 if weights.any() else 0
            weights, points = weights[:, :seen].to(wide), system.points[group, :seen].to(wide)
            mean, second = weights @ points, torch.diag_embed(system.ridge[group, row].to(wide)).flatten(1)
            for share, each in zip(
                weights.split(ELEMENTS // size**2 + 1, dim=1), points.split(ELEMENTS // size**2 + 1)
            ):
                second.addmm_(share, (each[:, :, None] * each[:, None]).flatten(1))
            matrix = second.unflatten(1, (size, size)).sub_(mean[:, :, None] * mean[:, None])
            solution[group, row] = solve_spd(matrix, right[group, row])
    return solution
