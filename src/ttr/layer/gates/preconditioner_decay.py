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
class PreconditionerDecay(Gate):
    """precond_log_decay = -exp(rate) softplus(W x + bias) per head, as in ``SoftplusDecay`` (arXiv
    2604.21100)."""

    slowest: float = 0.0
    fastest: float = 16.0

    makes: ClassVar[tuple[str, ...]] = ("precond_log_decay",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return SoftplusDecay(self.slowest, self.fastest).parameters(sizes)

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {"precond_log_decay": SoftplusDecay()(params, streams)["log_decay"]}

    @classmethod
    def examples(cls) -> tuple[PreconditionerDecay, ...]:
        return (cls(), cls(slowest=1.0))
