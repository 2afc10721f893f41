"""The local polynomial fit with its features written out: for one token, and for degrees whose systems are
small enough."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.engines.torch.direct_solve import require_digits, solve_spd
from ttr.inputs import needs_composite


def monomials(z: Float[Tensor, "*lead K"], degree: int) -> Float[Tensor, "*lead D"]:
    """The monomials of z of degree 1 to ``degree``, each times the root of its multinomial coefficient, in
    lexicographic order."""
    parts, plain, channels = [z], z, z.split(1, dim=-1)
    for d in range(2, degree + 1):
        variables = _variables(len(channels), d - 1)
        # In lexicographic order the monomials that start from variable i or a later one come last.
        plain = torch.cat(
            [x * plain[..., [row[0] for row in variables].index(i) :] for i, x in enumerate(channels)], dim=-1
        )
        parts.append(
            plain
            * torch.tensor(
                [_root(row) for row in _variables(len(channels), d)], dtype=z.dtype, device=z.device
            )
        )
    return torch.cat(parts, dim=-1)


def _variables(count: int, degree: int) -> list[tuple[int, ...]]:
    """The variables of every monomial of that degree; Python numbers, since torch.compile does not know the
    size of torch.combinations."""
    index: list[tuple[int, ...]] = [(i,) for i in range(count)]
    for _ in range(1, degree):
        index = [(*row, i) for row in index for i in range(row[-1], count)]
    return index


def _root(row: tuple[int, ...]) -> float:
    """The root of a monomial's multinomial coefficient."""
    orders, run = math.factorial(len(row)), 1
    for previous, i in zip(row, row[1:]):
        run = run + 1 if i == previous else 1
        orders //= run
    return math.sqrt(orders)


def tilted(
    p: Float[Tensor, "*lead N"],
    features: Float[Tensor, "*lead N D"],
    ridge: Float[Tensor, "*#ridge D"] | None,
    rho: Float[Tensor, "*lead D"] | None = None,
) -> Float[Tensor, "*lead N"]:
    """a_i = p_i (1 - (phi_i - mean).rho): the weight of every value in the fit at the origin of the features,
    for p of sum 1.

    Unless given, rho = (Cov_p(phi) + diag(ridge))^-1 mean, with the mean under p: all but the constant
    eliminated from the normal equations of the weighted fit, in the centred form, in which nothing cancels
    far from the origin.
    """
    mean = (p[..., None, :] @ features)[..., 0, :]
    centred = features - mean[..., None, :]
    if rho is None:
        covariance = (p[..., None] * centred).mT @ centred
        rho = solve_spd(covariance + torch.diag_embed(ridge), mean)
        if centred.shape[-2] and not needs_composite():
            require_digits(rho, centred.norm(dim=-1).amax(-1))
    return p * (1 - (centred @ rho[..., None])[..., 0])
