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
class SoftplusThreshold(Gate):
    """threshold = softplus(W x + bias) per head, the bias starting at ``bias`` (for the data-dependent one of
    Yaad, arXiv 2504.13173)."""

    bias: float = 0.5

    makes: ClassVar[tuple[str, ...]] = ("threshold",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {
            "weight": Parameter((sizes.heads, sizes.d_model), fan_in(sizes.d_model)),
            "bias": Parameter((sizes.heads,), constant(self.bias)),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {
            "threshold": torch.nn.functional.softplus(
                wide(streams["x"] @ params["weight"].mT) + wide(params["bias"])
            )
        }

    @classmethod
    def examples(cls) -> tuple[SoftplusThreshold, ...]:
        return (cls(),)
