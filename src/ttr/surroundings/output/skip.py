from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.inputs import repeat_heads
from ttr.surroundings import Output, Sizes, Streams, WorkedSurrounding, newest_pair


@dataclass(frozen=True)
class Skip(Output):
    """y + d * the stream ``of`` (v, or what became of it) per head, with a learned d that begins at 1 (Mamba,
    arXiv 2312.00752)."""

    of: str = "v"

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.of,)

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"strength": Parameter((sizes.heads,), constant(1.0))}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        y = streams["y"]
        return {
            "y": y + params["strength"][:, None] * repeat_heads(newest_pair(streams[self.of]), y.shape[-2])
        }

    @classmethod
    def examples(cls) -> tuple[Skip, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> WorkedSurrounding:
        # Two heads share one value: (2, 3) + 0.5 * (4, 6) and (5, 7) - 2 * (4, 6).
        streams = {
            "y": torch.tensor([[2.0, 3.0], [5.0, 7.0]]).reshape(1, 1, 2, 2),
            "input": torch.tensor([4.0, 6.0]).reshape(1, 1, 1, 2),
        }
        expected = {"y": torch.tensor([[4.0, 6.0], [-3.0, -5.0]]).reshape(1, 1, 2, 2)}
        return WorkedSurrounding(cls(of="input"), streams, expected, {"strength": torch.tensor([0.5, -2.0])})
