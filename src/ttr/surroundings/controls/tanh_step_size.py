from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.surroundings import Controls, Sizes, Streams, WorkedSurrounding, fan_in, wide


@dataclass(frozen=True)
class TanhStepSize(Controls):
    """step_size = 1 + tanh(W x / sqrt(d_model)), one per head and pair (Momentum DeltaNet, arXiv
    2605.05838)."""

    makes: ClassVar[tuple[str, ...]] = ("step_size",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"weight": Parameter((*sizes.per_pair, sizes.heads, sizes.d_model), fan_in(sizes.d_model))}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        logits = wide(torch.einsum("btd,...d->bt...", streams["x"], params["weight"]))
        return {"step_size": 1 + torch.tanh(logits / math.sqrt(streams["x"].shape[-1]))}

    @classmethod
    def examples(cls) -> tuple[TanhStepSize, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> WorkedSurrounding:
        # x has 4 channels that sum up to 2 ln 3: tanh(ln 3) = (9 - 1) / (9 + 1) = 0.8.
        params = {"weight": torch.tensor([[1.0, 1.0, 2.0, 0.5]])}
        x = 1.0986122886681098 * torch.tensor([[[0.25, 0.5, 0.5, 0.5]]])
        return WorkedSurrounding(cls(), {"x": x}, {"step_size": torch.tensor([[[1.8]]])}, params)
