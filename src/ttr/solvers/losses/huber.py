from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.solvers.losses._loss import _Loss


@dataclass(frozen=True)
class Huber(_Loss):
    """l = 1/2 ||e||^2 where ||e|| <= d, else d (||e|| - d / 2), with e = m(k) - v and the control
    ``threshold`` d (arXiv 2504.13173).

    The Huber loss of the length of the error, whose slope never exceeds d. Yaad's update as printed has the
    gradient of d ||e||_1 beyond the threshold, which jumps there.
    """

    power: ClassVar[float] = 2.0
    clipped: ClassVar[bool] = True
    formula: ClassVar[str] = (
        "||m - v||^2 / 2 where ||m - v|| <= threshold, else threshold (||m - v|| - threshold / 2)"
    )
    note: ClassVar[str] = "Beyond the threshold the loss grows like the error, not like its square."

    def controls(self) -> dict[str, str]:
        return {"threshold": "BTH"}

    def __call__(self, prediction: Tensor, value: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        squared, threshold = (prediction - value).square().sum(-1), controls["threshold"]
        near = squared <= threshold.square()
        length = torch.where(near, 1.0, squared).sqrt()  # the root of 0 has no derivative
        return torch.where(near, 0.5 * squared, threshold * (length - 0.5 * threshold))

    def slope(self, prediction: Tensor, value: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        error, threshold = prediction - value, controls["threshold"][..., None]
        excess = (error * error).sum(-1, keepdim=True) / (threshold * threshold)
        return error * excess.clamp(min=1.0).rsqrt()

    @classmethod
    def examples(cls) -> tuple[Huber, ...]:
        return (cls(),)
