from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.component import Parameter, normal
from ttr.problem import FeatureMap


@dataclass(frozen=True)
class Dijiang(FeatureMap):
    """phi(x) = softmax(x C D): C the orthogonal cosine transform (DCT-II), D a frozen diagonal of normal
    numbers that the heads share (DiJiang, arXiv 2403.19928)."""

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        return {"diagonal": Parameter((key_size,), normal, trainable=False)}

    def __call__(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        size = x.shape[-1]
        channel = torch.arange(size, dtype=x.dtype, device=x.device)
        transform = (
            torch.cos(math.pi / max(size, 1) * channel[:, None] * (channel + 0.5)) * (2 / max(size, 1)) ** 0.5
        )
        transform = torch.cat([transform[:1] / 2**0.5, transform[1:]])
        return (x @ (transform * params["diagonal"])).softmax(-1)

    def formulas(self) -> dict[str, str]:
        return {
            "features": (
                "phi(x) = softmax(D C^T x), C the cosine transform (DCT-II), D a fixed random diagonal"
            )
        }

    @classmethod
    def examples(cls) -> tuple[Dijiang, ...]:
        return (cls(),)
