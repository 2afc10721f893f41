from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Output, Streams
from ttr.layer.sizes import Sizes


@dataclass(frozen=True)
class LowRankGate(Output):
    """y * W2 sigmoid(W1 x_gate) per head and value channel (RWKV-7, arXiv 2503.14456); W1 leads to ``rank``
    channels, the value size if None."""

    rank: int | None = None

    reads: ClassVar[tuple[str, ...]] = ("x_gate",)

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        rank = self.rank or sizes.value_size
        return {
            "down": Parameter((rank, sizes.d_model), fan_in(sizes.d_model)),
            "up": Parameter((sizes.heads, sizes.value_size, rank), fan_in(rank)),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        gate = torch.einsum(
            "btr,hvr->bthv", torch.sigmoid(streams["x_gate"] @ params["down"].mT), params["up"]
        )
        return {"y": streams["y"] * gate}

    @classmethod
    def examples(cls) -> tuple[LowRankGate, ...]:
        return (cls(), cls(rank=2))
