"""Preconditioners of the systems of a chunk: blocked recursive least squares, and the diagonal."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.engines.torch.ridge.system import System

SMALL = 32
"""Matrices up to this size go to LAPACK; larger ones are inverted by halves, in products of matrices."""


class Preconditioner(NamedTuple):
    """Matrices M_t close to the A_t of a system: ``invert`` is r -> M_t^-1 r_t, and ``product`` (x, M x) ->
    A_t x_t."""

    invert: Callable[[Tensor], Tensor]
    product: Callable[[Tensor, Tensor], Tensor]


def jacobi(system: System) -> Preconditioner:
    """M_t is the diagonal of A_t."""
    diagonal = system.diagonal()
    inverse = torch.where(diagonal > 0, diagonal, 1.0).reciprocal_()
    return Preconditioner(lambda residual: residual * inverse, lambda x, _: system.product(x))


def fits(system: System) -> Tensor:
    """The chunks [G] in which ``recursive_least_squares`` preconditions well: the memory decays by a factor
    of less than exp(2)."""
    # false for the NaN of a chunk that begins with a reset
    return system.log_decay[:, 0] - system.log_decay[:, -1] < 2


def factorise(system: System) -> Float[Tensor, "G L F"]:
    """The factors of ``recursive_least_squares``, [-F; P]."""
    keys, middle = system.keys, system.weights.shape[-1] // 2
    factors = keys.new_empty(keys.shape[0], keys.shape[1] + keys.shape[2], keys.shape[2])
    matrix = system.gram * system.decay[:, middle, None]
    matrix.diagonal(dim1=-2, dim2=-1).add_(system.ridge[:, 0])
    inverse = spd_inverse(matrix, out=factors[:, keys.shape[1] :])
    keys = (system.weights.diagonal(dim1=-2, dim2=-1)[..., None] / _relative(system)).sqrt() * keys
    read, identity = keys @ inverse, torch.eye(keys.shape[1], dtype=keys.dtype, device=keys.device)
    factor = torch.linalg.cholesky_ex((read @ keys.mT).add_(identity))[0]
    factors[:, : keys.shape[1]] = torch.linalg.solve_triangular(factor, -identity, upper=False) @ read
    return factors


def recursive_least_squares(system: System, factors: Float[Tensor, "G L F"]) -> Preconditioner:
    """M_t is A_t with a ridge that decays with the memory.

    With a_t relative to that of a token m in the middle,

        M_t = a_t (B + sum_{i<=t} (w_i / a_i) k_i k_i^T) = A_t - (1 - a_t) diag(ridge),
        B = a_m H_0 + diag(ridge),

    so all eigenvalues of M_t^-1 A_t lie between 1 and 1 / a_t, whatever the keys and however small the ridge,
    and given M_t x, A_t x costs no product. Woodbury's identity needs one inverse P = B^-1 for the chunk.
    With the rows of K scaled by the roots of w_i / a_i, R R^T = 1 + K P K^T and F = R^-1 K P,

        a_t M_t^-1 = P - F_{<=t}^T F_{<=t},

    because the factor of the leading block of t tokens is the leading block of R.
    """
    size, relative = system.weights.shape[-1], _relative(system)
    past, inverse, shift = factors[:, :size].mT, relative.reciprocal(), (1 - relative) * system.ridge
    seen = -torch.ones(size, size, dtype=factors.dtype, device=factors.device).tril()
    shares = factors.new_empty(factors.shape[0], size, factors.shape[1])

    def invert(residual: Tensor) -> Tensor:
        scaled = torch.mul(residual, inverse, out=shares[..., size:])
        torch.mul(scaled @ past, seen, out=shares[..., :size])
        return shares @ factors

    return Preconditioner(invert, lambda x, image: torch.addcmul(image, shift, x))


def _relative(system: System) -> Float[Tensor, "G C 1"]:
    """a_t relative to the token in the middle."""
    return (
        (system.log_decay - system.log_decay[:, system.log_decay.shape[1] // 2, None])
        .exp()
        .to(system.keys)[..., None]
    )


def spd_inverse(
    matrix: Float[Tensor, "G D D"], out: Float[Tensor, "G D D"] | None = None
) -> Float[Tensor, "G D D"]:
    """Inverses of symmetric positive definite matrices; for other matrices the result is meaningless.

    By halves, [[X, Y], [Y^T, Z]]^-1 = [[X^-1 + E S E^T, -E S], [., S]] with E = X^-1 Y and S = (Z - Y^T
    E)^-1: products, which for many matrices of moderate size are several times faster than LAPACK's
    factorisation of each.
    """
    out = torch.empty_like(matrix) if out is None else out
    size = matrix.shape[-1]
    if size <= SMALL:
        factor, failed = torch.linalg.cholesky_ex(matrix)
        factor.diagonal(dim1=-2, dim2=-1)[failed > 0] = 1.0  # a 0 there would be an error
        return out.copy_(torch.cholesky_inverse(factor))
    half = size // 2
    across = matrix[:, :half, half:]
    first = spd_inverse(matrix[:, :half, :half])
    carried = first @ across
    last = spd_inverse(
        torch.baddbmm(matrix[:, half:, half:], across.mT, carried, alpha=-1), out=out[:, half:, half:]
    )
    corner = torch.mul(carried @ last, -1, out=out[:, :half, half:])
    out[:, half:, :half] = corner.mT
    out[:, :half, :half] = first.baddbmm_(corner, carried.mT, alpha=-1)
    return out
