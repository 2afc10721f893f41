from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.solvers.losses._loss import _Loss


@dataclass(frozen=True)
class Huber(_Loss):
    """l = 1/2 ||e||^2 where ||e|| <= d, else d ||e||_1, with e = m(k) - v and the control ``threshold`` d (Yaad, arXiv 2504.13173).

    As published, the slope jumps from e to d sign(e) at ||e|| = d.
    """

    formula: ClassVar[str] = "1/2 ||m(k) - v||^2 where ||m(k) - v|| <= threshold, else threshold ||m(k) - v||_1"

    def controls(self) -> dict[str, str]:
        return {"threshold": "BTH"}

    def __call__(self, prediction: Tensor, value: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        error, threshold = prediction - value, controls["threshold"]
        squared = error.square().sum(-1)
        return torch.where(squared <= threshold.square(), 0.5 * squared, threshold * error.abs().sum(-1))

    def slope(self, prediction: Tensor, value: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        error, threshold = prediction - value, controls["threshold"][..., None]
        near = (error * error).sum(-1, keepdim=True) <= threshold * threshold
        return torch.where(near, error, threshold * error.sign())

    @classmethod
    def examples(cls) -> tuple[Huber, ...]:
        return (cls(),)
