from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Gate, Streams, newest_pair
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class LowRankStepSize(Gate):
    """step_size = sigmoid(W2 W1 v + bias) per head, from all heads' values as the memory gets them (Longhorn,
    arXiv 2407.14207).

    ``rank`` None means ceil(d_model / 16).
    """

    rank: int | None = None

    makes: ClassVar[tuple[str, ...]] = ("step_size",)
    axes: ClassVar[str] = "BTH"
    after_qkv: ClassVar[bool] = True

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        if sizes.pairs > 1:
            raise ValueError(
                "LowRankStepSize makes one step of the values of a token. Use one pair per token."
            )
        rank = self.rank or math.ceil(sizes.d_model / 16)
        values = (sizes.value_heads, sizes.value_size)
        return {
            "down": Parameter((rank, *values), fan_in(values[0] * values[1])),
            "up": Parameter((sizes.heads, rank), fan_in(rank)),
            "bias": Parameter((sizes.heads,), constant(0.0)),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        logits = torch.einsum("bthv,rhv->btr", newest_pair(streams["v"]), params["down"]) @ params["up"].mT
        return {"step_size": torch.sigmoid(wide(logits) + wide(params["bias"]))}

    @classmethod
    def examples(cls) -> tuple[LowRankStepSize, ...]:
        return (cls(), cls(rank=2))
