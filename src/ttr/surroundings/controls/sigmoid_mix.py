from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.surroundings import Controls, Sizes, Streams, WorkedSurrounding, fan_in, wide


@dataclass(frozen=True)
class SigmoidMix(Controls):
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

    @classmethod
    def worked(cls) -> WorkedSurrounding:
        # x = (2, 3): 0.5*2 - 3 + 2 + ln 3 = ln 3 and 0.25*2 + 0.5*3 - 2 - ln 4 = -ln 4: sigmoid = 3/4 and
        #     1/5.
        params = {
            "weight": torch.tensor([[0.5, -1.0], [0.25, 0.5]]),
            "bias": torch.tensor([2 + 1.0986122886681098, -2 - 1.3862943611198906]),
        }
        return WorkedSurrounding(
            cls(), {"x": torch.tensor([[[2.0, 3.0]]])}, {"mix": torch.tensor([[[0.75, 0.2]]])}, params
        )
