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
class SoftplusLevelWeight(Gate):
    """level_weight = softplus(c * W x) per head and level, with a learned c that begins at 1 (log-linear
    Mamba-2, arXiv 2506.04761)."""

    makes: ClassVar[tuple[str, ...]] = ("level_weight",)
    axes: ClassVar[str] = "BTHL"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        shape = (sizes.heads, sizes.levels)
        return {
            "weight": Parameter((*shape, sizes.d_model), fan_in(sizes.d_model)),
            "strength": Parameter(shape, constant(1.0)),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        logits = torch.einsum("btd,hld->bthl", streams["x"], params["weight"])
        return {"level_weight": torch.nn.functional.softplus(wide(params["strength"]) * wide(logits))}

    @classmethod
    def examples(cls) -> tuple[SoftplusLevelWeight, ...]:
        return (cls(),)
