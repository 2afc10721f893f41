from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.layer.part import QKVTransform, Streams


@dataclass(frozen=True)
class Silu(QKVTransform):
    """x sigmoid(x), entry by entry."""

    streams: tuple[str, ...] = ("q", "k", "v")

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {name: torch.nn.functional.silu(streams[name]) for name in self.streams}

    @classmethod
    def examples(cls) -> tuple[Silu, ...]:
        return (cls(), cls(streams=("q",)))
