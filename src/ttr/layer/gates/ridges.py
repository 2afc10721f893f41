"""Ridges: the regulariser of an exact fit, the same for every token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import softplus

from ttr.component import Parameter, constant
from ttr.layer.part import Gate, Params, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class ConstantRidge(Gate):
    """ridge = ``value``, for all heads and channels (Intention, arXiv 2305.10203)."""

    value: float = 1.0

    makes: ClassVar[tuple[str, ...]] = ("ridge",)
    axes: ClassVar[str] = "HF"

    def __post_init__(self) -> None:
        if self.value <= 0:
            raise ValueError(
                f"ConstantRidge(value={self.value}) leaves the first fits without a unique "
                "solution. Use a value above 0."
            )

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {"ridge": wide(streams["x"]).new_full((), self.value)}

    @classmethod
    def examples(cls) -> tuple[ConstantRidge, ...]:
        return (cls(), cls(value=0.3))


@dataclass(frozen=True)
class LearnedRidge(Gate):
    """ridge = at_least + softplus(w), constant in time, ``per`` head or per head and channel; initially
    ``start``.

    The lower bound keeps every solve well conditioned (MesaNet, arXiv 2506.05233).
    """

    start: float = 1.0
    at_least: float = 0.25
    per: Literal["head", "channel"] = "channel"

    makes: ClassVar[tuple[str, ...]] = ("ridge",)
    axes: ClassVar[str] = "HF"

    def __post_init__(self) -> None:
        if not 0 <= self.at_least < self.start:
            raise ValueError(
                f"LearnedRidge(start={self.start}, at_least={self.at_least}) must start above "
                "its lower bound, which is at least 0."
            )

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        shape = (sizes.heads, sizes.feature_size) if self.per == "channel" else (sizes.heads,)
        return {"weight": Parameter(shape, constant(math.log(math.expm1(self.start - self.at_least))))}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {"ridge": self.at_least + softplus(wide(params["weight"]))}

    @classmethod
    def examples(cls) -> tuple[LearnedRidge, ...]:
        return (cls(), cls(start=0.5, at_least=0.1, per="head"))
