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
class HeadLayerNorm(Output):
    """(y - mean(y)) / std(y) * gain + bias over the channels of each head, with a gain and, if wanted, a bias
    for every channel of every
    head: the group norm of RWKV (arXiv 2404.05892) and of xLSTM (2405.04517)."""

    bias: bool = True
    eps: float = 1e-5

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        shape = (sizes.heads, sizes.value_size)
        return {"gain": Parameter(shape, constant(1.0))} | (
            {"bias": Parameter(shape, constant(0.0))} if self.bias else {}
        )

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        y = (
            torch.nn.functional.layer_norm(wide(streams["y"]), streams["y"].shape[-1:], eps=self.eps)
            * params["gain"]
        )
        return {"y": (y + params["bias"] if self.bias else y).to(streams["y"].dtype)}

    @classmethod
    def examples(cls) -> tuple[HeadLayerNorm, ...]:
        return (cls(), cls(bias=False))
