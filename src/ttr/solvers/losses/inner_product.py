from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ttr.solvers.losses._loss import _Loss


@dataclass(frozen=True)
class InnerProduct(_Loss):
    """l = -<m(k), v> (LaCT, arXiv 2505.23884): it has no minimum, so something else must bound the
    weights."""

    formula: ClassVar[str] = "-m^T v"
    note: ClassVar[str] = "The loss is an inner product, not a squared error, and has no minimum."

    def __call__(self, prediction: Tensor, value: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        return -(prediction * value).sum(-1)

    def slope(self, prediction: Tensor, value: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        return -value

    @classmethod
    def examples(cls) -> tuple[InnerProduct, ...]:
        return (cls(),)
