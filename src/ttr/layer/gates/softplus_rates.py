from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class SoftplusRates(Gate):
    """step_size = softplus(W x + bias), one per head and group of the function's parameters, about ``start``
    at x = 0 (LaCT, arXiv 2505.23884)."""

    start: float = 0.001

    makes: ClassVar[tuple[str, ...]] = ("step_size",)
    axes: ClassVar[str] = "BTHP"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        shape = (sizes.heads, sizes.groups)
        bias = self.start + math.log(-math.expm1(-self.start))  # the softplus of this is ``start``
        return {
            "weight": Parameter((*shape, sizes.d_model), fan_in(sizes.d_model)),
            "bias": Parameter(shape, constant(bias)),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        logits = torch.einsum("btd,hpd->bthp", streams["x"], params["weight"])
        return {"step_size": torch.nn.functional.softplus(wide(logits) + wide(params["bias"]))}

    @classmethod
    def examples(cls) -> tuple[SoftplusRates, ...]:
        return (cls(),)
