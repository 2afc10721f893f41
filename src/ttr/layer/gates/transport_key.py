from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class TransportKey(Gate):
    """transport_key = W2 W1 x per head, of norm 1 unless ``unit`` is off because another step brings it there
    (PaTH, arXiv 2505.16381)."""

    rank: int = 32
    unit: bool = True

    makes: ClassVar[tuple[str, ...]] = ("transport_key",)
    axes: ClassVar[str] = "BTHK"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {
            "down": Parameter((self.rank, sizes.d_model), fan_in(sizes.d_model)),
            "up": Parameter((sizes.heads, sizes.key_size, self.rank), fan_in(self.rank)),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        key = wide(torch.einsum("btr,hkr->bthk", streams["x"] @ params["down"].mT, params["up"]))
        return {
            "transport_key": key * torch.rsqrt(key.square().sum(-1, keepdim=True) + 1e-6)
            if self.unit
            else key
        }

    @classmethod
    def examples(cls) -> tuple[TransportKey, ...]:
        return (cls(), cls(rank=2, unit=False))
