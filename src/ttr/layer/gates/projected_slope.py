from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes


@dataclass(frozen=True)
class ProjectedSlope(Gate):
    """slope = W x, a second query per head (Parallax, arXiv 2605.29157). ``Rotary`` turns it where it turns
    the queries."""

    makes: ClassVar[tuple[str, ...]] = ("slope",)
    axes: ClassVar[str] = "BTHK"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"weight": Parameter((sizes.heads, sizes.key_size, sizes.d_model), fan_in(sizes.d_model))}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {"slope": torch.einsum("btd,hkd->bthk", streams["x"], params["weight"])}

    @classmethod
    def examples(cls) -> tuple[ProjectedSlope, ...]:
        return (cls(),)
