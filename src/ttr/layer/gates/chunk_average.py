from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class ChunkAverage(Gate):
    """read_step = max(1 / (p + 1) + offset_p, 0) at place p of a chunk of ``chunk`` tokens, p from 0 (TTT,
    arXiv 2407.04620).

    With offset 0 the steps of the chunk so far are averaged, not summed. The offset is learned.
    """

    chunk: int = 16

    makes: ClassVar[tuple[str, ...]] = ("read_step",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"offset": Parameter((self.chunk, sizes.heads), constant(0.0))}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        offset = wide(params["offset"])
        average = 1 / torch.arange(1, self.chunk + 1, dtype=offset.dtype, device=offset.device)
        return {"read_step": (average[:, None] + offset).clamp(min=0)[streams["position"] % self.chunk]}

    @classmethod
    def examples(cls) -> tuple[ChunkAverage, ...]:
        return (cls(chunk=3),)
