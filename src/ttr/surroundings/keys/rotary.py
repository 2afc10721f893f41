from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.surroundings import Keys, Streams, WorkedSurrounding, wide


@dataclass(frozen=True)
class Rotary(Keys):
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

    @classmethod
    def worked(cls) -> WorkedSurrounding:
        # K = 4, base 4: rates 1 and 1/2. At position 8, which is 3 after a period of 5, channels (0, 2) turn
        # by 3, channels (1, 3) by 1.5; cos 3 = -0.9899924966, sin 3 = 0.1411200081, cos 1.5 = 0.0707372017,
        # sin 1.5 = 0.9974949866. (2, 5) and (3, 4) become (2 cos 3 - 5 sin 3, 5 cos 3 + 2 sin 3) and (3 cos
        # 1.5 - 4 sin 1.5, 4 cos 1.5 + 3 sin 1.5).
        q = torch.tensor([2.0, 3.0, 5.0, 4.0]).reshape(1, 1, 1, 4)
        turned = [
            2 * -0.9899924966004454 - 5 * 0.1411200080598672,
            3 * 0.0707372016677029 - 4 * 0.9974949866040544,
            5 * -0.9899924966004454 + 2 * 0.1411200080598672,
            4 * 0.0707372016677029 + 3 * 0.9974949866040544,
        ]
        return WorkedSurrounding(
            cls(base=4.0, streams=("q",), period=5),
            {"q": q, "position": torch.tensor([[8]])},
            {"q": torch.tensor(turned).reshape(1, 1, 1, 4)},
        )
