from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.surroundings import Controls, Sizes, Streams, fan_in, wide


@dataclass(frozen=True)
class SigmoidTrapezoid(Controls):
    """trapezoid = sigmoid(W x) per head (Mamba-3, arXiv 2603.15569)."""

    makes: ClassVar[tuple[str, ...]] = ("trapezoid",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"weight": Parameter((sizes.heads, sizes.d_model), fan_in(sizes.d_model))}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {"trapezoid": torch.sigmoid(wide(streams["x"] @ params["weight"].mT))}

    @classmethod
    def examples(cls) -> tuple[SigmoidTrapezoid, ...]:
        return (cls(),)
