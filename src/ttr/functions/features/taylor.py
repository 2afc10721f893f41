from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.problem import FeatureMap


@dataclass(frozen=True)
class Taylor(FeatureMap):
    """phi(q).phi(k) = 1 + u + u^2/2 with u = q.k / K^(1/2): exp(u) to second order (Based, arXiv 2402.18668).

    phi(x) = [1, x_i / K^(1/4), x_i x_j / K^(1/2) (i < j), x_i^2 / (2K)^(1/2)], F = 1 + K + K(K+1)/2 entries.
    """

    of_dot_product: ClassVar[bool] = True

    def inner(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return x / x.shape[-1] ** 0.25

    def kernel(self, products: Tensor) -> Tensor:
        return 1 + products * (1 + products / 2)

    def size(self, key_size: int) -> int:
        return 1 + key_size + key_size * (key_size + 1) // 2

    def __call__(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        size = x.shape[-1]
        first, second = torch.triu_indices(size, size, offset=1, device=x.device)
        products = x[..., first] * x[..., second]
        return torch.cat(
            [x.new_ones(*x.shape[:-1], 1), x / size**0.25, products / size**0.5, x * x / (2 * size) ** 0.5],
            dim=-1,
        )

    def formulas(self) -> dict[str, str]:
        return {
            "features": "phi(x) = (1, x_i / K^(1/4), x_i x_j / K^(1/2), x_i^2 / (2 K)^(1/2)), i < j, "
            "so phi(q)^T phi(k) = 1 + u + u^2 / 2, u = q^T k / K^(1/2)"
        }

    @classmethod
    def examples(cls) -> tuple[Taylor, ...]:
        return (cls(),)
