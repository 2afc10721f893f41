from __future__ import annotations

import math
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
class BoundedLowRankDecay(Gate):
    """log_decay = -fastest sigmoid(W2 tanh(W1 x_decay) + bias) per head and key channel (RWKV-7, arXiv
    2503.14456).

    No channel keeps less than exp(-fastest) of itself, 54.5 % by default. W1 leads to ``rank`` channels, the
    key size if None. The biases start from -5.5 to 0.5 over the channels of the layer, steeper in deeper
    ones.
    """

    rank: int | None = None
    fastest: float = math.exp(-0.5)

    reads: ClassVar[tuple[str, ...]] = ("x_decay",)
    makes: ClassVar[tuple[str, ...]] = ("log_decay",)
    axes: ClassVar[str] = "BTHK"

    def __post_init__(self) -> None:
        if not self.fastest > 0:
            raise ValueError(
                f"BoundedLowRankDecay(fastest={self.fastest}) forgets nothing. Use a number "
                "above 0, or uniform weights."
            )

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        rank, channels = self.rank or sizes.key_size, (sizes.heads, sizes.key_size)
        power = 1 + (sizes.layer / max(sizes.layers - 1, 1)) ** 0.3

        def init(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
            return (-5.5 + 6 * torch.linspace(0, 1, math.prod(shape)) ** power).reshape(shape)

        return {
            "down": Parameter((rank, sizes.d_model), fan_in(sizes.d_model)),
            "up": Parameter((*channels, rank), fan_in(rank)),
            "bias": Parameter(channels, init),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        logits = torch.einsum(
            "btr,hkr->bthk", torch.tanh(streams["x_decay"] @ params["down"].mT), params["up"]
        )
        return {"log_decay": -self.fastest * torch.sigmoid(wide(logits) + wide(params["bias"]))}

    @classmethod
    def examples(cls) -> tuple[BoundedLowRankDecay, ...]:
        return (cls(), cls(rank=2, fastest=2.0))
