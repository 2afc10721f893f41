from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.inputs import repeat_heads
from ttr.surroundings import Keys, Sizes, Streams, WorkedSurrounding


@dataclass(frozen=True)
class HeadBias(Keys):
    """q + b and k + c with learned b, c for every head of the memory, which begin at 1 (Mamba-3, arXiv
    2603.15569).

    Heads that shared a query or a key have one each from here on.
    """

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {name: Parameter((sizes.heads, sizes.key_size), constant(1.0)) for name in ("q", "k")}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {name: repeat_heads(streams[name], len(bias)) + bias for name, bias in params.items()}

    @classmethod
    def examples(cls) -> tuple[HeadBias, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> WorkedSurrounding:
        # Two heads share one query: (2, 3) + (0.5, 4) and (2, 3) + (-1, 2); each has a key: (5, 7) + (3,
        #     0.25) and (6, 9) - (2, 4).
        streams = {
            "q": torch.tensor([2.0, 3.0]).reshape(1, 1, 1, 2),
            "k": torch.tensor([[5.0, 7.0], [6.0, 9.0]]).reshape(1, 1, 2, 2),
        }
        params = {
            "q": torch.tensor([[0.5, 4.0], [-1.0, 2.0]]),
            "k": torch.tensor([[3.0, 0.25], [-2.0, -4.0]]),
        }
        expected = {
            "q": torch.tensor([[2.5, 7.0], [1.0, 5.0]]).reshape(1, 1, 2, 2),
            "k": torch.tensor([[8.0, 7.25], [4.0, 5.0]]).reshape(1, 1, 2, 2),
        }
        return WorkedSurrounding(cls(), streams, expected, params)
