from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class LowRankExponentialDecay(Gate):
    """log_decay = -exp(W2 tanh(W1 x) + bias) per head and key channel (RWKV-6, arXiv 2404.05892).

    At x = 0 the logarithms of the rates run evenly from ``slowest`` to ``fastest`` over the channels of a
    head.
    """

    rank: int = 64
    slowest: float = -6.0
    fastest: float = -1.0

    makes: ClassVar[tuple[str, ...]] = ("log_decay",)
    axes: ClassVar[str] = "BTHK"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        channels = (sizes.heads, sizes.key_size)

        def rates(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
            return torch.linspace(self.slowest, self.fastest, shape[1]).repeat(shape[0], 1)

        return {
            "down": Parameter((self.rank, sizes.d_model), fan_in(sizes.d_model)),
            "up": Parameter((*channels, self.rank), fan_in(self.rank)),
            "bias": Parameter(channels, rates),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        logits = torch.einsum("btr,hkr->bthk", torch.tanh(streams["x"] @ params["down"].mT), params["up"])
        return {"log_decay": -torch.exp(wide(logits) + wide(params["bias"]))}

    @classmethod
    def examples(cls) -> tuple[LowRankExponentialDecay, ...]:
        return (cls(), cls(rank=2, slowest=-3.0))
