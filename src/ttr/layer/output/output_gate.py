from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Output, Streams
from ttr.layer.sizes import Sizes
from ttr.operators.rms_norm import ACTIVATIONS


@dataclass(frozen=True)
class OutputGate(Output):
    """y * g(W x), channel by channel, with g SiLU (the gate branch of Mamba, arXiv 2312.00752) or sigmoid
    (attention with forgetting, 2503.02130)."""

    gate: Literal["silu", "sigmoid"] = "silu"

    def __post_init__(self) -> None:
        if self.gate not in ACTIVATIONS:
            raise ValueError(
                f"OutputGate({self.gate!r}) is unknown. Use {' or '.join(map(repr, ACTIVATIONS))}."
            )

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"weight": Parameter((sizes.heads, sizes.value_size, sizes.d_model), fan_in(sizes.d_model))}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {
            "y": streams["y"]
            * ACTIVATIONS[self.gate](torch.einsum("btd,hvd->bthv", streams["x"], params["weight"]))
        }

    @classmethod
    def examples(cls) -> tuple[OutputGate, ...]:
        return (cls(), cls("sigmoid"))
