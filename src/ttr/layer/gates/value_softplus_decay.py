from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ttr.component import Parameter
from ttr.layer.gates.channel_softplus_decay import ChannelSoftplusDecay
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes


@dataclass(frozen=True)
class ValueSoftplusDecay(Gate):
    """value_log_decay = -exp(rate) softplus(W2 W1 x + bias) per head and value channel:
    ``ChannelSoftplusDecay`` with values for keys."""

    makes: ClassVar[tuple[str, ...]] = ("value_log_decay",)
    axes: ClassVar[str] = "BTHV"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return ChannelSoftplusDecay(rank=sizes.value_size).parameters(
            dataclasses.replace(sizes, key_size=sizes.value_size)
        )

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {"value_log_decay": ChannelSoftplusDecay()(params, streams)["log_decay"]}

    @classmethod
    def examples(cls) -> tuple[ValueSoftplusDecay, ...]:
        return (cls(),)
