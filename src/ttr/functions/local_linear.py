from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.functions._kernel import _ExponentialKernel


@dataclass(frozen=True)
class LocalLinear(_ExponentialKernel):
    """A linear map v = b + A (k - q) fitted around the query with the kernel weights exp(scale q.k_i), read
    at the query: y = b.

    The slope A is regularised by the control ``ridge``, relative to weights that sum to 1 (arXiv 2501.12352,
    2510.01450). ``unit_norm`` affects the kernel only; the displacement k - q is that of the vectors before
    normalisation.

    With ``rank`` r (at most K) the slope is restricted to r directions: v = b + A P (k - q), with P the
    parameter "function.projection" [H,r,K], initialised with orthonormal rows. r = K, with an orthogonal P
    and one ridge for all channels, is the full local linear fit; r = 0 would be softmax attention.
    """

    local_degree: ClassVar[int] = 1
    rank: int | None = None

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise ValueError(
                f"A slope needs at least one direction, not {self.rank}. Use a rank of 1 or "
                "more, or LocalConstant."
            )

    def feature_size(self, key_size: int) -> int:
        return key_size if self.rank is None else min(self.rank, key_size)

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        projection = (
            {}
            if self.rank is None
            else {"projection": Parameter((heads, self.feature_size(key_size), key_size), _orthonormal)}
        )
        return super().parameters(heads, key_size, value_size) | projection

    def point(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return x if self.rank is None else torch.einsum("...hk,hrk->...hr", x, params["projection"])

    def formulas(self) -> dict[str, str]:
        if self.rank is None:
            return {
                "prediction": "m_t(k) = b_t + A_t (k - q_t), fitted for every query",
                **super().formulas(),
                "read-out": "y_t = b_t = sum_{i<=t} p_i (1 - (k_i - kbar)^T rho) v_i, kbar = sum_{i<=t} "
                "p_i k_i, "
                "rho = (sum_{i<=t} p_i (k_i - kbar) (k_i - kbar)^T + diag(ridge))^-1 (kbar "
                "- q_t)",
            }
        return {
            "prediction": (
                f"m_t(k) = b_t + A_t P (k - q_t), P a learned {self.rank} x K matrix, fitted for every query"
            ),
            **super().formulas(),
            "read-out": "y_t = b_t = sum_{i<=t} p_i (1 - (z_i - zbar)^T rho) v_i, z_i = P k_i, zbar = "
            "sum_{i<=t} p_i z_i, "
            "rho = (sum_{i<=t} p_i (z_i - zbar) (z_i - zbar)^T + diag(ridge))^-1 (zbar - P "
            "q_t)",
        }

    @classmethod
    def examples(cls) -> tuple[LocalLinear, ...]:
        return (cls(), cls(scale=1.3, unit_norm=True, learned_scale=True), cls(rank=2))


def _orthonormal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Random orthonormal rows."""
    return torch.linalg.qr(torch.randn(shape, generator=generator).mT)[0].mT.contiguous()
