from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.functions._monomials import monomials
from ttr.problem import FeatureMap


@dataclass(frozen=True)
class SymmetricPower(FeatureMap):
    """phi(q).phi(k) = (q.k / K^(1/2))^p for an even p, so that no weight is negative (power attention, arXiv
    2507.04239).

    phi(x) holds the monomials of degree p in x / K^(1/4), each once and times the root of its multinomial
    coefficient: F = C(K + p - 1, p) entries instead of the K^p of the tensor power.
    """

    degree: int = 2

    of_dot_product: ClassVar[bool] = True

    def inner(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return x / x.shape[-1] ** 0.25

    def kernel(self, products: Tensor) -> Tensor:
        return products**self.degree

    def __post_init__(self) -> None:
        if self.degree < 2 or self.degree % 2:
            raise ValueError(
                f"SymmetricPower(degree={self.degree}) makes weights of either sign, or all "
                "alike. Use an even degree from 2 on."
            )

    def size(self, key_size: int) -> int:
        return monomials(key_size, self.degree)

    def __call__(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        size = x.shape[-1]
        monomials = _monomials(size, self.degree)
        phi = torch.tensor(
            [_multinomial(factors) for factors in monomials], dtype=x.dtype, device=x.device
        ).sqrt() / size ** (self.degree / 4)
        for i in range(self.degree):
            phi = phi * x[..., [factors[i] for factors in monomials]]
        return phi

    def formulas(self) -> dict[str, str]:
        return {
            "features": (
                f"phi(q)^T phi(k) = (q^T k / K^(1/2))^{self.degree}, phi(x) the monomials of "
                f"degree {self.degree} in x"
            )
        }

    @classmethod
    def examples(cls) -> tuple[SymmetricPower, ...]:
        return (cls(), cls(degree=4))


def _monomials(size: int, degree: int) -> list[tuple[int, ...]]:
    """The factors of every monomial of that degree in x_0 ... x_{size-1}, in rising order."""
    monomials = [(first,) for first in range(size)]
    for _ in range(degree - 1):
        monomials = [(*factors, last) for factors in monomials for last in range(factors[-1], size)]
    return monomials


def _multinomial(factors: tuple[int, ...]) -> float:
    """How often the monomial stands in the tensor power: p! / (m_1! m_2! ...), with the number of times each
    factor occurs."""
    return math.prod([(i + 1) / factors[: i + 1].count(factor) for i, factor in enumerate(factors)])
