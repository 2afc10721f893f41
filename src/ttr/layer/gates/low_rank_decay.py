from __future__ import annotations

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
class LowRankDecay(Gate):
    """log_decay = log sigmoid(W2 W1 x + bias) / ``temperature`` per head and key channel (GLA, arXiv
    2312.06635)."""

    rank: int = 16
    temperature: float = 16.0

    makes: ClassVar[tuple[str, ...]] = ("log_decay",)
    axes: ClassVar[str] = "BTHK"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        channels = (sizes.heads, sizes.key_size)
        return {
            "down": Parameter((self.rank, sizes.d_model), fan_in(sizes.d_model)),
            "up": Parameter((*channels, self.rank), fan_in(self.rank)),
            "bias": Parameter(channels, constant(0.0)),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        logits = torch.einsum("btr,hkr->bthk", streams["x"] @ params["down"].mT, params["up"])
        return {
            "log_decay": torch.nn.functional.logsigmoid(wide(logits) + wide(params["bias"]))
            / self.temperature
        }

    @classmethod
    def examples(cls) -> tuple[LowRankDecay, ...]:
        return (cls(), cls(rank=2, temperature=4.0))
