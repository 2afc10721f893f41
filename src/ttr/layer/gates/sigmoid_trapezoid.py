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
class SigmoidTrapezoid(Gate):
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
