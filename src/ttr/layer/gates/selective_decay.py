from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.initialisers import fan_in, time_step_bias
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class SelectiveDecay(Gate):
    """log_decay = -max(softplus(A x), floor) dt per head, dt = softplus(W x + bias): a rate of each token
    (Mamba-3, arXiv 2603.15569).

    dt is log-uniform in [0.001, 0.1] at x = 0, and the stream ``time_step`` for others.
    """

    floor: float = 1e-4

    makes: ClassVar[tuple[str, ...]] = ("log_decay", "time_step")
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        shape = (sizes.heads, sizes.d_model)
        return {
            "weight": Parameter(shape, fan_in(sizes.d_model)),
            "bias": Parameter(shape[:1], time_step_bias()),
            "rate": Parameter(shape, fan_in(sizes.d_model)),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        x, softplus = streams["x"], torch.nn.functional.softplus
        time_step = softplus(wide(x @ params["weight"].mT) + wide(params["bias"]))
        return {
            "log_decay": -softplus(wide(x @ params["rate"].mT)).clamp(min=self.floor) * time_step,
            "time_step": time_step,
        }

    @classmethod
    def examples(cls) -> tuple[SelectiveDecay, ...]:
        return (cls(), cls(floor=0.1))
