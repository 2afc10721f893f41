from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.surroundings import Controls, Sizes, Streams, WorkedSurrounding
from ttr.surroundings.controls.channel_softplus_decay import ChannelSoftplusDecay


@dataclass(frozen=True)
class ValueSoftplusDecay(Controls):
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

    @classmethod
    def worked(cls) -> WorkedSurrounding:
        # x = 2 goes down to 3, up to (0.75, -1.5), plus bias (-0.75, 1.5): softplus(0) = ln 2 twice, times
        # the rate 3.
        log2, log3 = 0.6931471805599453, 1.0986122886681098
        params = {
            "down": torch.tensor([[1.5]]),
            "up": torch.tensor([[[0.25], [-0.5]]]),
            "bias": torch.tensor([[-0.75, 1.5]]),
            "rate": torch.tensor([log3]),
        }
        expected = torch.full((1, 1, 1, 2), -3 * log2)
        return WorkedSurrounding(cls(), {"x": torch.tensor([[[2.0]]])}, {"value_log_decay": expected}, params)
