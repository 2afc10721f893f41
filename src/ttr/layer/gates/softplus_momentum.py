from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ttr.component import Parameter
from ttr.layer.gates.softplus_decay import SoftplusDecay
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes


@dataclass(frozen=True)
class SoftplusMomentum(Gate):
    """momentum = exp(max(-exp(rate) softplus(W x + bias), ln ``at_least``)) per head (Momentum DeltaNet,
    arXiv 2605.05838)."""

    at_least: float = 0.1353352832366127

    makes: ClassVar[tuple[str, ...]] = ("momentum",)
    axes: ClassVar[str] = "BTH"

    def __post_init__(self) -> None:
        if not 0 < self.at_least < 1:
            raise ValueError(
                f"SoftplusMomentum(at_least={self.at_least}) is no share. Use a number between "
                "0 and 1, such as exp(-2)."
            )

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return SoftplusDecay().parameters(sizes)

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {
            "momentum": SoftplusDecay()(params, streams)["log_decay"].clamp(min=math.log(self.at_least)).exp()
        }

    @classmethod
    def examples(cls) -> tuple[SoftplusMomentum, ...]:
        return (cls(),)
