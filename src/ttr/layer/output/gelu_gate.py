from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Output, Streams
from ttr.layer.sizes import Sizes


@dataclass(frozen=True)
class GeluGate(Output):
    """y * gelu(W x), channel by channel, with the tanh form of GELU (the branch beside Griffin's recurrence,
    arXiv 2402.19427)."""

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"weight": Parameter((sizes.heads, sizes.value_size, sizes.d_model), fan_in(sizes.d_model))}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        logits = torch.einsum("btd,hvd->bthv", streams["x"], params["weight"])
        return {"y": streams["y"] * torch.nn.functional.gelu(logits, approximate="tanh")}

    @classmethod
    def examples(cls) -> tuple[GeluGate, ...]:
        return (cls(),)
