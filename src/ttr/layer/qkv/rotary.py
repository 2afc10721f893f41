from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.layer.part import QKVTransform, Streams
from ttr.operators import wide


@dataclass(frozen=True)
class Rotary(QKVTransform):
    """Channels c and c + K/2 are turned by position * base^(-2c/K), so that q.k depends on the distance
    (arXiv 2104.09864).

    With an odd number of channels the last one stays as it is. With ``period`` the position counts from 0
    again after so many tokens (TTT, arXiv 2407.04620, in every chunk).
    """

    base: float = 10000.0
    streams: tuple[str, ...] = ("q", "k")
    period: int | None = None

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        position = streams["position"] if self.period is None else streams["position"] % self.period
        return {name: self._turn(streams[name], position) for name in self.streams}

    def _turn(self, x: Tensor, position: Tensor) -> Tensor:
        """[B,T,...,K], turned by the positions [B,T]."""
        half = x.shape[-1] // 2
        y = wide(x)
        rates = torch.exp(
            torch.arange(half, dtype=y.dtype, device=x.device) * (-math.log(self.base) / max(half, 1))
        )
        angle = (position[..., None].to(y.dtype) * rates).reshape(*position.shape, *(1,) * (x.ndim - 3), half)
        a, b, rest = y[..., :half], y[..., half : 2 * half], y[..., 2 * half :]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1).to(x.dtype)

    @classmethod
    def examples(cls) -> tuple[Rotary, ...]:
        return (cls(), cls(base=100.0, streams=("k",), period=3))
