"""The gates of Momentum DeltaNet (arXiv 2605.05838), which share one budget between momentum and decay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Matrix, Parameter
from ttr.layer.gates.decays import MambaDecay
from ttr.layer.initialisers import fan_in, log_uniform_rates
from ttr.layer.part import Gate, Params, Streams, linear
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class SharedMomentumStep(Gate):
    """momentum_step = sin^2(angle) sigmoid(W x), angle = arctan(exp(factor) step_size) per head (Momentum
    DeltaNet, arXiv 2605.05838).

    The rest of the budget, cos^2(angle), bounds the decay; its log is available to other parts as the stream
    ``log_cap``. At initialisation exp(factor) is uniform between 0 and ``largest``.
    """

    largest: float = 4.0

    reads: ClassVar[tuple[str, ...]] = ("step_size",)
    makes: ClassVar[tuple[str, ...]] = ("momentum_step", "log_cap")
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {
            "weight": Matrix((sizes.heads, sizes.d_model), fan_in(sizes.d_model)),
            "factor": Parameter((sizes.heads,), log_uniform_rates(0.0, self.largest)),
        }

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        # tan^2: sin^2 = ratio / (1 + ratio), cos^2 = 1 / (1 + ratio)
        ratio = (streams["step_size"] * wide(params["factor"]).exp()).square()
        share = torch.sigmoid(wide(linear(streams["x"], params["weight"])))
        return {"momentum_step": ratio / (1 + ratio) * share, "log_cap": -torch.log1p(ratio)}

    @classmethod
    def examples(cls) -> tuple[SharedMomentumStep, ...]:
        return (cls(),)


@dataclass(frozen=True)
class CappedDecay(Gate):
    """log_decay = log_cap - exp(rate) softplus(W x + bias): ``MambaDecay`` below the stream log_cap
    (Momentum DeltaNet, 2605.05838)."""

    reads: ClassVar[tuple[str, ...]] = ("log_cap",)
    makes: ClassVar[tuple[str, ...]] = ("log_decay",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return MambaDecay().parameters(sizes)

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {"log_decay": streams["log_cap"] + MambaDecay()(params, streams)["log_decay"]}

    @classmethod
    def examples(cls) -> tuple[CappedDecay, ...]:
        return (cls(),)


@dataclass(frozen=True)
class DecayMomentum(Gate):
    """momentum = exp(max(-exp(rate) softplus(W x + bias), ln ``at_least``)) per head (Momentum DeltaNet,
    arXiv 2605.05838)."""

    at_least: float = 0.1353352832366127

    makes: ClassVar[tuple[str, ...]] = ("momentum",)
    axes: ClassVar[str] = "BTH"

    def __post_init__(self) -> None:
        if not 0 < self.at_least < 1:
            raise ValueError(
                f"DecayMomentum(at_least={self.at_least}) is not between 0 and 1. Use a number such as "
                "exp(-2)."
            )

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return MambaDecay().parameters(sizes)

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {
            "momentum": MambaDecay()(params, streams)["log_decay"].clamp(min=math.log(self.at_least)).exp()
        }

    @classmethod
    def examples(cls) -> tuple[DecayMomentum, ...]:
        return (cls(),)
