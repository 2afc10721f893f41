from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.initialisers import fan_in, log_uniform_rates, time_step_bias
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class ChannelSoftplusDecay(Gate):
    """log_decay = -exp(rate) softplus(W2 W1 x + bias) per head and key channel (Kimi Delta Attention, arXiv
    2510.26692).

    W1 leads to ``rank`` channels, the value size if None; the rate is one per head.
    """

    rank: int | None = None
    slowest: float = 1.0
    fastest: float = 16.0

    makes: ClassVar[tuple[str, ...]] = ("log_decay",)
    axes: ClassVar[str] = "BTHK"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        rank, channels = self.rank or sizes.value_size, (sizes.heads, sizes.key_size)
        return {
            "down": Parameter((rank, sizes.d_model), fan_in(sizes.d_model)),
            "up": Parameter((*channels, rank), fan_in(rank)),
            "bias": Parameter(channels, time_step_bias()),
            "rate": Parameter((sizes.heads,), log_uniform_rates(self.slowest, self.fastest)),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        logits = torch.einsum("btr,hkr->bthk", streams["x"] @ params["down"].mT, params["up"])
        return {
            "log_decay": -wide(params["rate"]).exp()[:, None]
            * torch.nn.functional.softplus(wide(logits) + wide(params["bias"]))
        }

    @classmethod
    def examples(cls) -> tuple[ChannelSoftplusDecay, ...]:
        return (cls(), cls(rank=3))
