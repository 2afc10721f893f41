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
class SigmoidRate(Gate):
    """step_size = base sigmoid(W x + bias) / K per head, for keys of size K (TTT, arXiv 2407.04620: base 1
    for a matrix, 0.1 for an MLP)."""

    base: float = 1.0

    makes: ClassVar[tuple[str, ...]] = ("step_size",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {
            "weight": Parameter((sizes.heads, sizes.d_model), fan_in(sizes.d_model)),
            "bias": Parameter((sizes.heads,), constant(0.0)),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        gate = torch.sigmoid(wide(streams["x"] @ params["weight"].mT) + wide(params["bias"]))
        return {"step_size": self.base * gate / max(streams["k"].shape[-1], 1)}

    @classmethod
    def examples(cls) -> tuple[SigmoidRate, ...]:
        return (cls(), cls(base=0.1))
