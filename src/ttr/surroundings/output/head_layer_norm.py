from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.surroundings import Output, Sizes, Streams, WorkedSurrounding, wide


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

    @classmethod
    def worked(cls) -> WorkedSurrounding:
        # Heads (2, 8) and (9, 1): less their means (-3, 3) and (4, -4), variances 9 and 16, plus eps 16:
        #     divided by 5 and sqrt(32).
        y = torch.tensor([[2.0, 8.0], [9.0, 1.0]]).reshape(1, 1, 2, 2)
        params = {
            "gain": torch.tensor([[5.0, 10.0], [32**0.5, -(32**0.5)]]),
            "bias": torch.tensor([[0.5, -2.0], [3.0, 7.0]]),
        }
        expected = torch.tensor([[-2.5, 4.0], [7.0, 11.0]]).reshape(1, 1, 2, 2)
        return WorkedSurrounding(cls(eps=16.0), {"y": y}, {"y": expected}, params)
