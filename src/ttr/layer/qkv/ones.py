from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.layer.part import QKVTransform, Streams


@dataclass(frozen=True)
class Ones(QKVTransform):
    """Queries or keys that are 1 in every channel: a recurrent unit writes its input and shows its state as
    they are."""

    streams: tuple[str, ...] = ("q", "k")

    @property
    def replaces(self) -> tuple[str, ...]:
        return self.streams

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {name: torch.ones_like(streams[name]) for name in self.streams}

    @classmethod
    def examples(cls) -> tuple[Ones, ...]:
        return (cls(), cls(streams=("q",)))
