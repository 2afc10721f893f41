from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.operators.rms_norm import rms_norm
from ttr.surroundings import Keys, Streams, WorkedSurrounding


@dataclass(frozen=True)
class UnitNorm(Keys):
    """x / sqrt(sum x^2 + eps) per head: vectors of norm 1, which keep the delta rule stable for steps below
    2."""

    streams: tuple[str, ...] = ("q", "k")
    eps: float = 1e-6

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {name: rms_norm(streams[name], self.eps, mean=False) for name in self.streams}

    @classmethod
    def examples(cls) -> tuple[UnitNorm, ...]:
        return (cls(), cls(streams=("k",)))

    @classmethod
    def worked(cls) -> WorkedSurrounding:
        # sqrt(2^2 + 3^2 + 6^2 + 15) = 8.
        x = torch.tensor([2.0, 3.0, 6.0]).reshape(1, 1, 1, 3)
        return WorkedSurrounding(
            cls(streams=("k",), eps=15.0),
            {"k": x},
            {"k": torch.tensor([0.25, 0.375, 0.75]).reshape(1, 1, 1, 3)},
        )
