from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Output, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide
from ttr.operators.rms_norm import rms_norm


@dataclass(frozen=True)
class GatedRMSNorm(Output):
    """y / rms(y) * gain * g(W x): RMSNorm and output gate in one (RetNet, arXiv 2307.08621; Gated DeltaNet,
    2412.06464).

    Args:
        gate: g, SiLU or sigmoid.
        over: what the root mean square is taken of: the channels of each head, the gain shared by the heads,
            or of all.
        gate_first: the gate multiplies y before the norm (Mamba-2, 2405.21060).
        low_rank: W goes through ``value_size`` channels and adds a bias (KDA, 2510.26692).
    """

    gate: Literal["silu", "sigmoid"] = "silu"
    over: Literal["head", "all"] = "head"
    gate_first: bool = False
    low_rank: bool = False
    eps: float = 1e-5

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        shape = (sizes.heads, sizes.value_size)
        gain = {"gain": Parameter(shape if self.over == "all" else shape[1:], constant(1.0))}
        if not self.low_rank:
            return gain | {"weight": Parameter((*shape, sizes.d_model), fan_in(sizes.d_model))}
        rank = sizes.value_size
        return gain | {
            "down": Parameter((rank, sizes.d_model), fan_in(sizes.d_model)),
            "weight": Parameter((*shape, rank), fan_in(rank)),
            "bias": Parameter(shape, constant(0.0)),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        x = streams["x"]
        logits = torch.einsum(
            "btd,hvd->bthv", x @ params["down"].mT if self.low_rank else x, params["weight"]
        )
        logits = wide(logits) + params["bias"] if self.low_rank else logits
        return {
            "y": rms_norm(
                streams["y"],
                self.eps,
                gain=params["gain"],
                gate=logits,
                activation=self.gate,
                gate_first=self.gate_first,
            )
        }

    @classmethod
    def examples(cls) -> tuple[GatedRMSNorm, ...]:
        return (cls(), cls(gate="sigmoid", low_rank=True), cls(over="all", gate_first=True))
