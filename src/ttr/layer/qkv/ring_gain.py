from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.initialisers import ring_radii
from ttr.layer.part import QKVTransform, Streams
from ttr.layer.sizes import Sizes


@dataclass(frozen=True)
class RingGain(QKVTransform):
    """v exp(gain) with a learned gain per head (LRU, arXiv 2303.06349).

    It starts at sqrt(1 - a^2) for the retentions a with which ``RingDecay`` of the same fields starts, so
    that a white input makes a state of the same variance.
    """

    smallest: float = 0.9
    largest: float = 0.999

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        def start(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
            return 0.5 * torch.log1p(
                -ring_radii(sizes.heads, self.smallest, self.largest)[:: sizes.heads // shape[0]].square()
            )

        return {"gain": Parameter((sizes.value_heads,), start)}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {"v": streams["v"] * params["gain"].exp()[:, None]}

    @classmethod
    def examples(cls) -> tuple[RingGain, ...]:
        return (cls(), cls(smallest=0.5))
