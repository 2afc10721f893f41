from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.inputs import repeat_heads
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class UnitReadKey(Gate):
    """read_key = k * g / ||k * g|| per head, with a learned gain g, k as it leaves the projection (RWKV-7,
    arXiv 2503.14456)."""

    makes: ClassVar[tuple[str, ...]] = ("read_key",)
    axes: ClassVar[str] = "BTHK"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"gain": Parameter((sizes.heads, sizes.key_size), constant(0.71))}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        key = wide(repeat_heads(streams["k"], len(params["gain"])) * params["gain"])
        return {"read_key": torch.nn.functional.normalize(key, dim=-1)}

    @classmethod
    def examples(cls) -> tuple[UnitReadKey, ...]:
        return (cls(),)
