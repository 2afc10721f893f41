from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.initialisers import fan_in
from ttr.layer.part import QKVTransform, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class SelectiveAngle(QKVTransform):
    """The stream ``angle``, theta_t = sum_{j<=t} dt_j pi tanh(W x_j), for the rotations of every head
    (Mamba-3, arXiv 2603.15569).

    W is shared by the heads and leads to half as many angles as channels are turned, which is the share
    ``fraction`` of them all.
    """

    fraction: float = 0.5

    reads: ClassVar[tuple[str, ...]] = ("time_step",)
    makes: ClassVar[tuple[str, ...]] = ("angle",)

    def sums(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        return {"angle": (sizes.heads, int(sizes.key_size * self.fraction) // 2)}

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"weight": Parameter((self.sums(sizes)["angle"][-1], sizes.d_model), fan_in(sizes.d_model))}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        rate = math.pi * torch.tanh(wide(streams["x"] @ params["weight"].mT))
        return {"angle": streams["time_step"][..., None] * rate[:, :, None]}

    @classmethod
    def examples(cls) -> tuple[SelectiveAngle, ...]:
        return (cls(), cls(fraction=1.0))
