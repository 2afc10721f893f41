from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.surroundings import Keys, Streams, WorkedSurrounding


@dataclass(frozen=True)
class Silu(Keys):
    """x sigmoid(x), entry by entry."""

    streams: tuple[str, ...] = ("q", "k", "v")

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {name: torch.nn.functional.silu(streams[name]) for name in self.streams}

    @classmethod
    def examples(cls) -> tuple[Silu, ...]:
        return (cls(), cls(streams=("q",)))

    @classmethod
    def worked(cls) -> WorkedSurrounding:
        # sigmoid(ln 3) = 3/4 and sigmoid(-ln 3) = 1/4.
        log3 = 1.0986122886681098
        q, expected = (
            torch.tensor([log3, -log3]).reshape(1, 1, 1, 2),
            torch.tensor([0.75 * log3, -0.25 * log3]).reshape(1, 1, 1, 2),
        )
        return WorkedSurrounding(cls(streams=("q",)), {"q": q}, {"q": expected})
