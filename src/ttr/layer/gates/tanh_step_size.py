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
class TanhStepSize(Gate):
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
