from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.initialisers import fan_in, log_uniform_rates
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class SharedMomentumStep(Gate):
    """momentum_step = sin^2(angle) sigmoid(W x), angle = arctan(exp(factor) step_size) per head (Momentum
    DeltaNet, arXiv 2605.05838).

    The rest, cos^2(angle), is what the memory may keep of itself: its log is the stream ``log_cap`` for
    others. The exponentials of the factors start uniform between 0 and ``largest``.
    """

    largest: float = 4.0

    reads: ClassVar[tuple[str, ...]] = ("step_size",)
    makes: ClassVar[tuple[str, ...]] = ("momentum_step", "log_cap")
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {
            "weight": Parameter((sizes.heads, sizes.d_model), fan_in(sizes.d_model)),
            "factor": Parameter((sizes.heads,), log_uniform_rates(0.0, self.largest)),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        # tan^2: sin^2 = ratio / (1 + ratio), cos^2 = 1 / (1 + ratio)
        ratio = (streams["step_size"] * wide(params["factor"]).exp()).square()
        share = torch.sigmoid(wide(streams["x"] @ params["weight"].mT))
        return {"momentum_step": ratio / (1 + ratio) * share, "log_cap": -torch.log1p(ratio)}

    @classmethod
    def examples(cls) -> tuple[SharedMomentumStep, ...]:
        return (cls(),)
