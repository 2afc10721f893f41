from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.surroundings import Output, Sizes, Streams, WorkedSurrounding, fan_in


@dataclass(frozen=True)
class SigmoidGate(Output):
    """y * sigmoid(W x), channel by channel (the output gate of attention with forgetting, arXiv 2503.02130)."""

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"weight": Parameter((sizes.heads, sizes.value_size, sizes.d_model), fan_in(sizes.d_model))}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {"y": streams["y"] * torch.sigmoid(torch.einsum("btd,hvd->bthv", streams["x"], params["weight"]))}

    @classmethod
    def examples(cls) -> tuple[SigmoidGate, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> WorkedSurrounding:
        # x = 2: logits ln 3 and -ln 3, gates 3/4 and 1/4.
        log3 = 1.0986122886681098
        streams = {"x": torch.tensor([[[2.0]]]), "y": torch.tensor([8.0, -4.0]).reshape(1, 1, 1, 2)}
        params = {"weight": torch.tensor([[[log3 / 2], [-log3 / 2]]])}
        return WorkedSurrounding(cls(), streams, {"y": torch.tensor([6.0, -1.0]).reshape(1, 1, 1, 2)}, params)
