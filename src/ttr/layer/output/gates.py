"""Gates on the read-out."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import gelu

from ttr.component import Matrix, Parameter
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Output, Params, Streams, linear
from ttr.layer.sizes import Sizes
from ttr.operators.rms_norm import ACTIVATIONS

GATES = ACTIVATIONS | {"gelu": functools.partial(gelu, approximate="tanh")}


@dataclass(frozen=True)
class OutputGate(Output):
    """y * g(W x), channel by channel, with g SiLU (the gate branch of Mamba, arXiv 2312.00752), sigmoid
    (attention with forgetting, 2503.02130) or the tanh form of GELU (the branch parallel to Griffin's
    recurrence, 2402.19427)."""

    gate: Literal["silu", "sigmoid", "gelu"] = "silu"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"weight": Matrix((sizes.heads, sizes.value_size, sizes.d_model), fan_in(sizes.d_model))}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {"y": streams["y"] * GATES[self.gate](linear(streams["x"], params["weight"]))}

    @classmethod
    def examples(cls) -> tuple[OutputGate, ...]:
        return (cls(), cls("sigmoid"), cls("gelu"))


@dataclass(frozen=True)
class LowRankOutputGate(Output):
    """y * W2 sigmoid(W1 x_gate) per head and value channel (RWKV-7, arXiv 2503.14456); W1 maps to ``rank``
    channels, by default the value size."""

    rank: int | None = None

    reads: ClassVar[tuple[str, ...]] = ("x_gate",)

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        rank = self.rank or sizes.value_size
        return {
            "down": Matrix((rank, sizes.d_model), fan_in(sizes.d_model)),
            "up": Matrix((sizes.heads, sizes.value_size, rank), fan_in(rank)),
        }

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        gate = linear(torch.sigmoid(linear(streams["x_gate"], params["down"])), params["up"])
        return {"y": streams["y"] * gate}

    @classmethod
    def examples(cls) -> tuple[LowRankOutputGate, ...]:
        return (cls(), cls(rank=2))
