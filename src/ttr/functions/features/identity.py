from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ttr.problem import FeatureMap


@dataclass(frozen=True)
class Identity(FeatureMap):
    """phi(x) = x."""

    identity: ClassVar[bool] = True
    keeps_channels: ClassVar[bool] = True

    def __call__(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return x

    def formulas(self) -> dict[str, str]:
        return {"features": "phi(x) = x"}

    @classmethod
    def examples(cls) -> tuple[Identity, ...]:
        return (cls(),)
