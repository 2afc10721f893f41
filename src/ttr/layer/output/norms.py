"""Norms of the read-out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ttr.component import Matrix, Parameter, constant
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Output, Params, Streams, linear
from ttr.layer.sizes import Sizes
from ttr.operators import wide
from ttr.operators.rms_norm import rms_norm


@dataclass(frozen=True)
class RMSNorm(Output):
    """y / rms(y) * gain (arXiv 1910.07467), ``over`` the channels of each head, with one gain for all heads,
    or over the channels of all heads."""

    over: Literal["head", "all"] = "head"
    eps: float = 1e-5

    def head_groups(self, sizes: Sizes) -> int:
        return sizes.heads if self.over == "head" else 1

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {
            "gain": Parameter(
                (sizes.value_size,) if self.over == "head" else (sizes.heads, sizes.value_size), constant(1.0)
            )
        }

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {"y": rms_norm(streams["y"], self.eps, gain=params["gain"])}

    @classmethod
    def examples(cls) -> tuple[RMSNorm, ...]:
        return (cls(), cls(over="all"))


@dataclass(frozen=True)
class GatedRMSNorm(Output):
    """y / rms(y) * gain * g(W x): RMSNorm and output gate in one (RetNet, arXiv 2307.08621; Gated DeltaNet,
    2412.06464).

    Args:
        gate: g, SiLU or sigmoid.
        over: the channels whose root mean square is taken: those of each head, with one gain for all heads;
            those of all heads together; or those of the heads that share a key (Mamba-2 with several groups).
        gate_first: the gate multiplies y before the norm (Mamba-2, 2405.21060).
        low_rank: W goes through ``value_size`` channels and adds a bias (KDA, 2510.26692).
    """

    gate: Literal["silu", "sigmoid"] = "silu"
    over: Literal["head", "all", "group"] = "head"
    gate_first: bool = False
    low_rank: bool = False
    eps: float = 1e-5

    def head_groups(self, sizes: Sizes) -> int:
        return {"head": sizes.heads, "group": sizes.key_heads, "all": 1}[self.over]

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        shape = (sizes.heads, sizes.value_size)
        gains = {
            "head": shape[1:],
            "all": shape,
            "group": (sizes.key_heads, sizes.heads // sizes.key_heads, sizes.value_size),
        }
        gain = {"gain": Parameter(gains[self.over], constant(1.0))}
        if not self.low_rank:
            return gain | {"weight": Matrix((*shape, sizes.d_model), fan_in(sizes.d_model))}
        rank = sizes.value_size
        return gain | {
            "down": Matrix((rank, sizes.d_model), fan_in(sizes.d_model)),
            "weight": Matrix((*shape, rank), fan_in(rank)),
            "bias": Parameter(shape, constant(0.0)),
        }

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        x = streams["x"]
        logits = linear(linear(x, params["down"]) if self.low_rank else x, params["weight"])
        logits = wide(logits) + params["bias"] if self.low_rank else logits
        y, gain, groups = streams["y"], params["gain"], None
        if self.over == "group":  # one row for every group, whose gain is applied afterwards
            groups, gain = gain.flatten(1), None
            y, logits = (z.reshape(*z.shape[:2], *groups.shape) for z in (y, logits))
        y = rms_norm(y, self.eps, gain=gain, gate=logits, activation=self.gate, gate_first=self.gate_first)
        return {"y": y if groups is None else (y * groups).to(y.dtype).reshape(streams["y"].shape)}

    @classmethod
    def examples(cls) -> tuple[GatedRMSNorm, ...]:
        return (
            cls(),
            cls(gate="sigmoid", low_rank=True),
            cls(over="all", gate_first=True),
            cls(over="group", gate_first=True),
        )


@dataclass(frozen=True)
class LayerNorm(Output):
    """(y - mean) / deviation * gain + bias (arXiv 1607.06450) over the channels of each head, which is the
    group norm of RWKV (2404.05892) and xLSTM (2405.04517), or of all heads together, as after TTT's memory
    (2407.04620).

    Every channel of every head has a gain and, with ``bias``, a bias. With ``by_depth`` the gains start at
    ((layer + 1) / layers)^0.7, as in RWKV-7 (2503.14456).
    """

    over: Literal["head", "all"] = "head"
    bias: bool = True
    eps: float = 1e-5
    by_depth: bool = False

    def head_groups(self, sizes: Sizes) -> int:
        return sizes.heads if self.over == "head" else 1

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        shape = (sizes.heads, sizes.value_size)
        start = ((sizes.layer + 1) / sizes.layers) ** 0.7 if self.by_depth else 1.0
        gain = {"gain": Parameter(shape, constant(start))}
        return gain | {"bias": Parameter(shape, constant(0.0))} if self.bias else gain

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        y = wide(streams["y"])
        channels = y.shape[-1:] if self.over == "head" else y.shape[-2:]
        normal = torch.nn.functional.layer_norm(y, channels, eps=self.eps) * params["gain"]
        return {"y": (normal + params["bias"] if self.bias else normal).to(streams["y"].dtype)}

    @classmethod
    def examples(cls) -> tuple[LayerNorm, ...]:
        return (cls(), cls(bias=False), cls("all", eps=1e-6), cls(by_depth=True))
