from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ttr.component import Parameter
from ttr.layer.gates.softplus_decay import SoftplusDecay
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes


@dataclass(frozen=True)
class CappedSoftplusDecay(Gate):
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
