from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.layer.part import Output, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class GroupNorm(Output):
    """(y - mean) / sqrt(variance + eps) * gain + bias, mean and variance over the channels of each head
    (RWKV-7, arXiv 2503.14456)."""

    eps: float = 64e-5

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        shape = (sizes.heads, sizes.value_size)
        return {
            "gain": Parameter(shape, constant(((sizes.layer + 1) / sizes.layers) ** 0.7)),
            "bias": Parameter(shape, constant(0.0)),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        y = (
            torch.nn.functional.layer_norm(wide(streams["y"]), streams["y"].shape[-1:], eps=self.eps)
            * params["gain"]
            + params["bias"]
        )
        return {"y": y.to(streams["y"].dtype)}

    @classmethod
    def examples(cls) -> tuple[GroupNorm, ...]:
        return (cls(),)
