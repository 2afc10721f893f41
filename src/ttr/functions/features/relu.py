from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.problem import FeatureMap


@dataclass(frozen=True)
class Relu(FeatureMap):
    """phi(x) = max(x, 0), entry by entry (cosFormer, arXiv 2202.08791)."""

    keeps_channels: ClassVar[bool] = True

    def __call__(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return torch.relu(x)

    def formulas(self) -> dict[str, str]:
        return {"features": "phi(x) = max(x, 0)"}

    @classmethod
    def examples(cls) -> tuple[Relu, ...]:
        return (cls(),)
