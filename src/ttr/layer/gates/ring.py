"""Gates that are the same for every token: eigenvalues on a ring of the unit disk (LRU, arXiv 2303.06349)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.initialisers import ring_radii
from ttr.layer.part import Gate, Params, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class RingDecay(Gate):
    """log_decay = -exp(rate), the same for every token, with a learned rate per head (LRU, arXiv 2303.06349).

    The decays start with their squares evenly spaced between those of ``smallest`` and ``largest``: the
    eigenvalues lie on a ring of the unit disk.
    """

    smallest: float = 0.9
    largest: float = 0.999

    makes: ClassVar[tuple[str, ...]] = ("log_decay",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {
            "rate": Parameter(
                (sizes.heads,),
                lambda shape, generator: torch.log(-ring_radii(shape[0], self.smallest, self.largest).log()),
            )
        }

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {"log_decay": -wide(params["rate"]).exp().expand(*streams["x"].shape[:2], -1)}

    @classmethod
    def examples(cls) -> tuple[RingDecay, ...]:
        return (cls(), cls(smallest=0.5))


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

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {"phase": wide(params["angle"]).exp().expand(*streams["x"].shape[:2], -1)}

    @classmethod
    def examples(cls) -> tuple[RingPhase, ...]:
        return (cls(), cls(largest=0.3))
