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
class SigmoidMix(Gate):
    """mix = sigmoid(W x + bias) per head (the alpha connection of Gated KalmaNet, arXiv 2511.21016)."""

    makes: ClassVar[tuple[str, ...]] = ("mix",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {
            "weight": Parameter((sizes.heads, sizes.d_model), fan_in(sizes.d_model)),
            "bias": Parameter((sizes.heads,), constant(0.0)),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {"mix": torch.sigmoid(wide(streams["x"] @ params["weight"].mT) + wide(params["bias"]))}

    @classmethod
    def examples(cls) -> tuple[SigmoidMix, ...]:
        return (cls(),)
