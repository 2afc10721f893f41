"""Rotations of queries and keys."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Matrix, Parameter
from ttr.inputs import repeat_heads
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Params, QKVTransform, Streams, linear
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class Rotary(QKVTransform):
    """Channels c and c + K/2 are rotated by position * base^(-2c/K), so that q.k depends on the distance
    (arXiv 2104.09864).

    With an odd number of channels the last one is unchanged. With ``period`` the position starts again from 0
    after that many tokens (TTT, arXiv 2407.04620, in every chunk).
    """

    base: float = 10000.0
    streams: tuple[str, ...] = ("q", "k")
    period: int | None = None

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        position = streams["position"] if self.period is None else streams["position"] % self.period
        return {name: self._rotate(streams[name], position) for name in self.streams}

    def _rotate(self, x: Tensor, position: Tensor) -> Tensor:
        """[B,T,...,K], rotated by the positions [B,T]."""
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


@dataclass(frozen=True)
class SelectiveAngle(QKVTransform):
    """The stream ``angle``, theta_t = sum_{j<=t} dt_j pi tanh(W x_j), for the rotations of every head
    (Mamba-3, arXiv 2603.15569).

    W is shared by the heads. It maps to one angle for every two rotated channels, which are the share
    ``fraction`` of all channels.
    """

    fraction: float = 0.5

    reads: ClassVar[tuple[str, ...]] = ("time_step",)
    makes: ClassVar[tuple[str, ...]] = ("angle",)

    def sums(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        return {"angle": (sizes.heads, int(sizes.key_size * self.fraction) // 2)}

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"weight": Matrix((self.sums(sizes)["angle"][-1], sizes.d_model), fan_in(sizes.d_model))}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        rate = math.pi * torch.tanh(wide(linear(streams["x"], params["weight"])))
        return {"angle": streams["time_step"][..., None] * rate[:, :, None]}

    @classmethod
    def examples(cls) -> tuple[SelectiveAngle, ...]:
        return (cls(), cls(fraction=1.0))


@dataclass(frozen=True)
class AngleRotary(QKVTransform):
    """Channels c and c + n of q and k are rotated by the n angles of the stream ``angle``; the others are
    unchanged (Mamba-3, arXiv 2603.15569)."""

    reads: ClassVar[tuple[str, ...]] = ("angle",)

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {name: _rotate(streams[name], streams["angle"]) for name in ("q", "k")}

    @classmethod
    def examples(cls) -> tuple[AngleRotary, ...]:
        return (cls(),)


def _rotate(x: Tensor, angle: Tensor) -> Tensor:
    """[B,T,...,h,K] rotated by [B,T,H,n], each head by its own angles."""
    pairs = angle.shape[-1]
    angle = angle.reshape(*angle.shape[:2], *(1,) * (x.ndim - 4), *angle.shape[2:])
    x, cos, sin = repeat_heads(x, angle.shape[-2]), angle.cos(), angle.sin()
    a, b, rest = wide(x).split([pairs, pairs, x.shape[-1] - 2 * pairs], dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1).to(x.dtype)
