from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.initialisers import fan_in, log_uniform_rates, time_step_bias
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class SoftplusDecay(Gate):
    """log_decay = -exp(rate) dt per head, dt = softplus(W x + bias) (Mamba-2, arXiv 2405.21060; Gated
    DeltaNet, 2412.06464).

    The exponentials of the rates start uniform between ``slowest`` and ``fastest``, dt log-uniform in [0.001,
    0.1] at x = 0. dt is the stream ``time_step`` for others.
    """

    slowest: float = 0.0
    fastest: float = 16.0

    makes: ClassVar[tuple[str, ...]] = ("log_decay", "time_step")
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {
            "weight": Parameter((sizes.heads, sizes.d_model), fan_in(sizes.d_model)),
            "bias": Parameter((sizes.heads,), time_step_bias()),
            "rate": Parameter((sizes.heads,), log_uniform_rates(self.slowest, self.fastest)),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        time_step = torch.nn.functional.softplus(
            wide(streams["x"] @ params["weight"].mT) + wide(params["bias"])
        )
        return {"log_decay": -wide(params["rate"]).exp() * time_step, "time_step": time_step}

    @classmethod
    def examples(cls) -> tuple[SoftplusDecay, ...]:
        return (cls(), cls(slowest=1.0))
