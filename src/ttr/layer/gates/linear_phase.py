from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class LinearPhase(Gate):
    """phase = W x per head, or per head and key channel (GateLoop, arXiv 2311.01927)."""

    per: Literal["head", "channel"] = "head"

    makes: ClassVar[tuple[str, ...]] = ("phase",)

    @property
    def axes(self) -> str:
        return "BTH" if self.per == "head" else "BTHK"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        channels = (sizes.heads,) if self.per == "head" else (sizes.heads, sizes.key_size)
        return {"weight": Parameter((*channels, sizes.d_model), fan_in(sizes.d_model))}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {"phase": wide(torch.einsum("btd,...d->bt...", streams["x"], params["weight"]))}

    @classmethod
    def examples(cls) -> tuple[LinearPhase, ...]:
        return (cls(), cls(per="channel"))
