from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.inputs import repeat_heads
from ttr.layer.part import QKVTransform, Streams
from ttr.operators import wide


@dataclass(frozen=True)
class AngleRotary(QKVTransform):
    """Channels c and c + n of q and k are turned by the n angles of the stream ``angle``, and the others stay
    (Mamba-3, arXiv 2603.15569)."""

    reads: ClassVar[tuple[str, ...]] = ("angle",)

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {name: _turn(streams[name], streams["angle"]) for name in ("q", "k")}

    @classmethod
    def examples(cls) -> tuple[AngleRotary, ...]:
        return (cls(),)


def _turn(x: Tensor, angle: Tensor) -> Tensor:
    """[B,T,...,h,K] turned by [B,T,H,n], each head by its own angles."""
    turns = angle.shape[-1]
    angle = angle.reshape(*angle.shape[:2], *(1,) * (x.ndim - 4), *angle.shape[2:])
    x, cos, sin = repeat_heads(x, angle.shape[-2]), angle.cos(), angle.sin()
    a, b, rest = wide(x).split([turns, turns, x.shape[-1] - 2 * turns], dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1).to(x.dtype)
