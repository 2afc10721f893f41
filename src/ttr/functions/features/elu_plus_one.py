from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import elu

from ttr.problem import FeatureMap


@dataclass(frozen=True)
class EluPlusOne(FeatureMap):
    """phi(x) = elu(x) + 1 > 0 (Katharopoulos et al. 2020, arXiv 2006.16236)."""

    keeps_channels: ClassVar[bool] = True

    def __call__(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return elu(x) + 1

    def formulas(self) -> dict[str, str]:
        return {"features": "phi(x) = elu(x) + 1"}

    @classmethod
    def examples(cls) -> tuple[EluPlusOne, ...]:
        return (cls(),)
