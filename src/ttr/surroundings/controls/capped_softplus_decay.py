from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.surroundings import Controls, Sizes, Streams, WorkedSurrounding
from ttr.surroundings.controls.softplus_decay import SoftplusDecay


@dataclass(frozen=True)
class CappedSoftplusDecay(Controls):
    """log_decay = log_cap - exp(rate) softplus(W x + bias): ``SoftplusDecay`` below the stream log_cap
    (Momentum DeltaNet, 2605.05838)."""

    reads: ClassVar[tuple[str, ...]] = ("log_cap",)
    makes: ClassVar[tuple[str, ...]] = ("log_decay",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return SoftplusDecay().parameters(sizes)

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {"log_decay": streams["log_cap"] + SoftplusDecay()(params, streams)["log_decay"]}

    @classmethod
    def examples(cls) -> tuple[CappedSoftplusDecay, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> WorkedSurrounding:
        # x = 2, W = 0.5, bias -1: softplus(0) = ln 2, times the rate 3, below -0.5.
        log2, log3 = 0.6931471805599453, 1.0986122886681098
        params = {"weight": torch.tensor([[0.5]]), "bias": torch.tensor([-1.0]), "rate": torch.tensor([log3])}
        streams = {"x": torch.tensor([[[2.0]]]), "log_cap": torch.tensor([[[-0.5]]])}
        return WorkedSurrounding(cls(), streams, {"log_decay": torch.tensor([[[-0.5 - 3 * log2]]])}, params)
