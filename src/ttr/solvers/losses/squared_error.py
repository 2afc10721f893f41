from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ttr.solvers.losses._loss import _Loss


@dataclass(frozen=True)
class SquaredError(_Loss):
    """l = 1/2 ||m(k) - v||^2."""

    power: ClassVar[float] = 2.0
    formula: ClassVar[str] = "||m - v||^2 / 2"

    def __call__(self, prediction: Tensor, value: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        return 0.5 * (prediction - value).square().sum(-1)

    def slope(self, prediction: Tensor, value: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        return prediction - value

    @classmethod
    def examples(cls) -> tuple[SquaredError, ...]:
        return (cls(),)
