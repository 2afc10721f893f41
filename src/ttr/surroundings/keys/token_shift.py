from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.surroundings import Keys, Sizes, Streams, WorkedSurrounding


@dataclass(frozen=True)
class TokenShift(Keys):
    """Every channel of a stream becomes x_t + c (x_{t-1} - x_t), with a learned c per channel that begins at ``start`` and a 0 before
    the first token (the time mixing of RWKV, arXiv 2305.13048)."""

    start: float = 0.5
    streams: tuple[str, ...] = ("q", "k", "v")

    past: ClassVar[int] = 1

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {name: Parameter(sizes.stream(name), constant(self.start)) for name in self.streams}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {name: torch.lerp(streams[name][:, 1:], streams[name][:, :-1], params[name].to(streams[name].dtype)) for name in self.streams}

    @classmethod
    def examples(cls) -> tuple[TokenShift, ...]:
        return (cls(), cls(streams=("k",)))

    @classmethod
    def worked(cls) -> WorkedSurrounding:
        # Past token 4, then 6 and 9, share 0.25: 6 + 0.25 (4 - 6) = 5.5 and 9 + 0.25 (6 - 9) = 8.25.
        v = torch.tensor([4.0, 6.0, 9.0]).reshape(1, 3, 1, 1)
        expected = {"v": torch.tensor([5.5, 8.25]).reshape(1, 2, 1, 1)}
        return WorkedSurrounding(cls(streams=("v",)), {"v": v}, expected, {"v": torch.tensor([[0.25]])})
