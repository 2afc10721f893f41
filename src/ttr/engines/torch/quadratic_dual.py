"""The local quadratic fit around every query in its dual form: no monomial is made.

With one ridge l for all monomials psi(z) of z_i = k_i - q, whose dot product is z.z' + (z.z')^2, the fit with
weights p_i of sum 1 read at the query is y = sum_i a_i v_i with

    a = S x,   (S G S + l) x = mu s - S h,   s.x = 1,   s = sqrt(p),   S = diag(s),

a system of as many unknowns as pairs, where the normal equations have D (D + 3) / 2. (Put the coefficients
sum_i b_i psi(z_i) of the minimiser into the objective; mu belongs to the constant, which has no ridge.)
Since the constant is free, psi(z_i) may be shifted by what all pairs share. With d_i = k_i - o for an origin
o among the keys, and u = o - q, what remains has no power of the distance of the query beyond the second,

    G_ij = e (1 + 2 u.u + 2 t_i + 2 t_j + e) + 2 t_i t_j,   e = d_i.d_j,  t_i = u.d_i,
    h_i = t_i (1 + 2 u.u + t_i),

and e is the same for all queries. For g the derivative of a loss in y and c_i = g.v_i, the adjoint x' solves
with the same factor,

    (S G S + l) x' = S c + mu' s,   s.x' = 0,

and with b = S x', Q_ij = (a_i b_j + b_i a_j) / 2 gives dv_i = a_i g, dG = -Q, dh = -b and

    d logits_i = l x_i x'_i - p_i l x.x',   d ridge_f = (sum_i a_i psi_f(z_i)) (sum_i b_i psi_f(z_i)) / l.

(All other parts of d s cancel by the two equations.) Q has rank 2, so its products are sums over queries.

Letters: U groups of heads that share their keys (batch times key heads), R queries of a group, P pairs that
they see, D channels, F monomials.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.engines.native import local_quadratic as kernels
from ttr.engines.torch.direct_solve import SINGULAR, NoDigits, refuse_without_digits, wide_dtype


def determined(ridge: Float[Tensor, "H F"]) -> bool:
    """Whether the dual form has a solution: all monomials of a head have one ridge, above 0."""
    return bool(((ridge == ridge[:, :1]) & (ridge > 0)).all())


class Fits(NamedTuple):
    """R fits of every unit to the same pairs."""

    probability: Float[Tensor, "U R P"]
    places: Float[Tensor, "U R D"]
    points: Float[Tensor, "U P D"]
    values: Float[Tensor, "U P V"]
    ridge: Float[Tensor, "U R"]


class Gradients(NamedTuple):
    """Those of the logits, of the tensors of ``Fits`` in their order, and the derivative of every monomial's
    ridge."""

    logits: Float[Tensor, "U R P"]
    places: Float[Tensor, "U R D"]
    points: Float[Tensor, "U P D"]
    values: Float[Tensor, "U P V"]
    ridge: Float[Tensor, "U R F"] | None


def read(fits: Fits) -> Float[Tensor, "U R V"]:
    """The read-outs.

    Raises:
        NoDigits: if a system is singular, or its solution rounding errors.
    """
    dual = _Systems(fits)
    x, _ = dual.solve(dual.root, dual.root * dual.shift)
    return (dual.root * x) @ fits.values


def read_once(
    p: Float[Tensor, "B H P"],
    query: Float[Tensor, "B H D"],
    keys: Float[Tensor, "B H P D"],
    values: Float[Tensor, "B H P V"],
    ridge: Float[Tensor, "H F"],
) -> Float[Tensor, "B H V"]:
    """The read-out of one token, in the dtype of its values, for calls without gradients."""
    ridge = ridge[:, 0].expand(len(p), -1)[..., None]
    tensors = (t.to(wide_dtype(p)) for t in (p[:, :, None], query[:, :, None], keys, values, ridge))
    y = read(Fits(*(t.flatten(0, 1) for t in tensors)))
    return y.view_as(values[:, :, 0]).to(values)


def differentiate(fits: Fits, grad: Float[Tensor, "U R V"], of_ridge: bool) -> Gradients:
    """The gradients, by the formulas at the head of this file."""
    dual = _Systems(fits)
    root, t, e, points = dual.root, dual.along, dual.products, dual.points
    x, adjoint = dual.solve(root, root * dual.shift, root * (grad @ fits.values.mT))
    a, b = root * x, root * adjoint
    each = fits.ridge[..., None] * x * adjoint
    logits = each - fits.probability * each.sum(-1, keepdim=True)

    ea, eb, far = a @ e, b @ e, dual.far  # sum_ij Q_ij dG_ij / d(...), summed by rank
    grad_t = -b * (far + 2 * t) - 2 * (
        a * ((b * t).sum(-1, keepdim=True) + eb) + b * ((a * t).sum(-1, keepdim=True) + ea)
    )
    grad_square = -2 * ((b * t).sum(-1, keepdim=True) + (a * eb).sum(-1, keepdim=True))  # of u.u
    shared = (far * a + 2 * t * a).mT @ b + a.mT @ (2 * t * b)
    shared = shared + (2 * e) * (a.mT @ b)
    grad_e = -(shared + shared.mT) / 2
    places = -(grad_t @ points + 2 * grad_square * dual.offset)
    grad_points = grad_t.mT @ dual.offset + 2 * grad_e @ points
    ridge = None
    if of_ridge:
        moments = zip(dual.moments(a, 1.0), dual.moments(b, 0.0))
        linear, products = (own * other / fits.ridge[..., None] for own, other in moments)
        # the monomial of two different channels is the root of 2 times their product
        counts = 2 - _pairs(torch.eye(points.shape[-1], dtype=points.dtype, device=points.device)).sum(0)
        ridge = torch.cat([linear, counts * products], dim=-1)
    return Gradients(logits, places, grad_points, a.mT @ grad, ridge)


class _Systems:
    """The systems of some fits, and what they are made of: ``far`` is 1 + 2 u.u."""

    def __init__(self, fits: Fits) -> None:
        origin = fits.points[:, :1]
        self.points, self.offset = fits.points - origin, origin - fits.places
        self.root = fits.probability.sqrt()
        self.products = self.points @ self.points.mT
        self.along = self.offset @ self.points.mT
        self.far = 1 + 2 * self.offset.square().sum(-1, keepdim=True)
        self.half = self.far / 2 + 2 * self.along
        self.shift = self.along * (self.far + self.along)
        self.ridge = fits.ridge

    def matrices(self) -> Float[Tensor, "U R P P"]:
        """S G S + l."""
        e, t = self.products[:, None], self.along
        matrices = self.half[..., None] + self.half[..., None, :]
        matrices.add_(e).mul_(e).addcmul_(t[..., None], t[..., None, :], value=2)
        matrices.mul_(self.root[..., None]).mul_(self.root[..., None, :])
        matrices.diagonal(dim1=-2, dim2=-1).add_(self.ridge[..., None])
        return matrices

    def solve(
        self, *right: Float[Tensor, "U R P"]
    ) -> tuple[Float[Tensor, "U R P"], Float[Tensor, "U R P"] | None]:
        """x for the right sides (s, S h), and x' if S c is given as well."""
        sides = torch.stack(right, 2)
        found, norm = (self._solve_compiled if kernels.serves(self.products) else self._solve)(sides)
        refuse_without_digits(norm[..., None], found[:, :, :2], sides[:, :, :2])
        ones, shift, *adjoint = found.unbind(2)
        total = (self.root * ones).sum(-1, keepdim=True)
        total = torch.where(total > 0, total, 1.0)  # all weights of a row may be 0
        x = ones * ((1 + (self.root * shift).sum(-1, keepdim=True)) / total) - shift
        if not adjoint:
            return x, None
        return x, adjoint[0] - ones * ((self.root * adjoint[0]).sum(-1, keepdim=True) / total)

    def _solve(
        self, right: Float[Tensor, "U R n P"]
    ) -> tuple[Float[Tensor, "U R n P"], Float[Tensor, "U R"]]:
        matrices = self.matrices()
        try:
            factor = torch.linalg.cholesky(matrices)
        except torch.linalg.LinAlgError as error:
            raise NoDigits(SINGULAR) from error
        return torch.cholesky_solve(right.mT, factor).mT, matrices.norm(dim=(-2, -1))

    def _solve_compiled(
        self, right: Float[Tensor, "U R n P"]
    ) -> tuple[Float[Tensor, "U R n P"], Float[Tensor, "U R"]]:
        found, norm = kernels.solve(self.products, self.along, self.half, self.root, self.ridge, right)
        if not bool((norm >= 0).all()):
            raise NoDigits(SINGULAR)
        return found, norm

    def moments(
        self, weights: Float[Tensor, "U R P"], total: float
    ) -> tuple[Float[Tensor, "U R D"], Float[Tensor, "U R E"]]:
        """sum_i weights_i z_i and the same of the products of two channels of z_i = d_i + u, for weights of
        that sum; products of a sum are expanded."""
        mean, u = weights @ self.points, self.offset
        products = weights @ _pairs(self.points) - _pairs(mean) + _pairs(mean + u) + (total - 1) * _pairs(u)
        return mean + total * u, products


def _pairs(z: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead E"]:
    """z_a z_b for all a <= b, in the order of the monomials of degree 2."""
    a, b = torch.triu_indices(z.shape[-1], z.shape[-1], device=z.device)
    return z[..., a] * z[..., b]
