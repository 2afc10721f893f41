from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class RingPhase(Gate):
    """phase = exp(angle), the same for every token, with a learned angle per head (LRU, arXiv 2303.06349).

    The phases start uniform between 0 and ``largest``; a small bound keeps long sequences from turning too
    often.
    """

    largest: float = 2 * math.pi

    makes: ClassVar[tuple[str, ...]] = ("phase",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {
            "angle": Parameter(
                (sizes.heads,),
                lambda shape, generator: torch.log(
                    self.largest * (1 - torch.rand(shape, generator=generator))
                ),
            )
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {"phase": wide(params["angle"]).exp().expand(*streams["x"].shape[:2], -1)}

    @classmethod
    def examples(cls) -> tuple[RingPhase, ...]:
        return (cls(), cls(largest=0.3))
