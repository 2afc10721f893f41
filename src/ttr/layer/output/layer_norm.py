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
class LayerNorm(Output):
    """(y - mean) / deviation * gain + shift over the channels of all heads together (arXiv 1607.06450), after
    TTT's memory (2407.04620)."""

    eps: float = 1e-6

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        shape = (sizes.heads, sizes.value_size)
        return {"gain": Parameter(shape, constant(1.0)), "shift": Parameter(shape, constant(0.0))}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        y = streams["y"]
        normal = torch.nn.functional.layer_norm(
            wide(y), y.shape[-2:], wide(params["gain"]), wide(params["shift"]), self.eps
        )
        return {"y": normal.to(y.dtype)}

    @classmethod
    def examples(cls) -> tuple[LayerNorm, ...]:
        return (cls(),)
