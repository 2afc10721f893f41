from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.problem import FeatureMap

LARGEST = 30.0
"""Exponents are held at or below this, so that sums of products of two features stay finite in float32."""


@dataclass(frozen=True)
class PositiveRandom(FeatureMap):
    """phi(x) = exp(W x~ - ||x~||^2 / 2) / m^(1/2) with x~ = x / K^(1/4): in the mean phi(q).phi(k) = exp(q.k
    / K^(1/2)) (FAVOR+ of Performer, arXiv 2009.14794).

    The m rows of W are frozen: normal numbers, orthogonal to one another in blocks of K. ``number`` is m,
    int(K ln K) if None.

    The published code subtracts a maximum over all keys, the later ones included. Nothing is subtracted here:
    the exponent (||W_r||^2 - ||W_r - x~||^2) / 2 is a few units for an x~ that does not lie near W_r, and is
    held at ``LARGEST`` for one that does.
    """

    number: int | None = None

    def __post_init__(self) -> None:
        if self.number is not None and self.number < 1:
            raise ValueError(
                f"PositiveRandom(number={self.number}) has no features. Use a number from 1 "
                "on, or None for int(K ln K)."
            )

    def size(self, key_size: int) -> int:
        return max(1, int(key_size * math.log(max(key_size, 1)))) if self.number is None else self.number

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        return {"directions": Parameter((self.size(key_size), key_size), _orthogonal, trainable=False)}

    def __call__(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        directions = params["directions"]
        x = x / x.shape[-1] ** 0.25
        exponent = x @ directions.mT - x.square().sum(-1, keepdim=True) / 2
        return exponent.clamp(max=LARGEST).exp() / directions.shape[0] ** 0.5

    def formulas(self) -> dict[str, str]:
        number = "int(K log K)" if self.number is None else f"{self.number}"
        return {
            "features": "phi(x) = exp(W x~ - ||x~||^2 / 2) / m^(1/2), x~ = x / K^(1/4), W of m = "
            f"{number} fixed random rows, exponents "
            f"up to {LARGEST:g}, so phi(q)^T phi(k) is exp(q^T k / K^(1/2)) in the mean"
        }

    @classmethod
    def examples(cls) -> tuple[PositiveRandom, ...]:
        return (cls(), cls(number=4))


def _orthogonal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Rows with the distribution of normal ones, orthogonal to one another in blocks of as many as there are
    channels."""
    number, size = shape
    if size == 0:
        return torch.zeros(shape)
    q, r = torch.linalg.qr(torch.randn(-(-number // size), size, size, generator=generator))
    # else the sign of each row would hang together with its first entry
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    lengths = torch.randn(number, size, generator=generator).norm(dim=-1, keepdim=True)
    return lengths * q.mT.flatten(0, 1)[:number]
