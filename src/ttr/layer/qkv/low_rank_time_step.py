from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.initialisers import fan_in, time_step_bias
from ttr.layer.part import QKVTransform, Streams, newest_pair
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class LowRankTimeStep(QKVTransform):
    """dt = softplus(W2 W1 v + bias) per head, from all heads' values at the token: the stream ``time_step``
    (Mamba, arXiv 2312.00752).

    ``rank`` None means ceil(d_model / 16); at v = 0 dt starts log-uniform in [0.001, 0.1]. v itself is
    unchanged.
    """

    rank: int | None = None

    makes: ClassVar[tuple[str, ...]] = ("time_step",)

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        rank = self.rank or math.ceil(sizes.d_model / 16)
        values = (sizes.value_heads, sizes.value_size)
        return {
            "down": Parameter((rank, *values), fan_in(values[0] * values[1])),
            "up": Parameter((sizes.heads, rank), fan_in(rank)),
            "bias": Parameter((sizes.heads,), time_step_bias()),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        logits = torch.einsum("bthv,rhv->btr", newest_pair(streams["v"]), params["down"]) @ params["up"].mT
        return {"time_step": torch.nn.functional.softplus(wide(logits) + wide(params["bias"]))}

    @classmethod
    def examples(cls) -> tuple[LowRankTimeStep, ...]:
        return (cls(), cls(rank=2))
