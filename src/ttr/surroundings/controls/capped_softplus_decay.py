from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ttr.component import Parameter
from ttr.surroundings import Controls, Sizes, Streams
from ttr.surroundings.controls.softplus_decay import SoftplusDecay


@dataclass(frozen=True)
class CappedSoftplusDecay(Controls):
    """log_decay = log_cap - exp(rate) softplus(W x + bias): ``SoftplusDecay`` below the stream log_cap
    (Momentum DeltaNet, 2605.05838)."""

    reads: ClassVar[tuple[str, ...]] = ("log_cap",)
    makes: ClassVar[tuple[str, ...]] = ("log_decay",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return SoftplusDecay().parameters(sizes)

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {"log_decay": streams["log_cap"] + SoftplusDecay()(params, streams)["log_decay"]}

    @classmethod
    def examples(cls) -> tuple[CappedSoftplusDecay, ...]:
        return (cls(),)
