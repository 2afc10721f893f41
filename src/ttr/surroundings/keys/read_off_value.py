from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.surroundings import Keys, Sizes, Streams, WorkedSurrounding, fan_in, newest_pair


@dataclass(frozen=True)
class ReadOffValue(Keys):
    """q and k as linear maps of all heads' values at the token, in place of the layer's input (Mamba, arXiv
    2312.00752).

    Put it behind the convolution of v, whose result the maps read.
    """

    replaces = ("q", "k")

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        if sizes.pairs > 1:
            raise ValueError("ReadOffValue makes one key of the values of a token. Use one pair per token.")
        values = (sizes.value_heads, sizes.value_size)
        return {
            name: Parameter((*sizes.stream(name), *values), fan_in(values[0] * values[1]))
            for name in self.replaces
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {
            name: torch.einsum("bthv,gkhv->btgk", newest_pair(streams["v"]), params[name])
            for name in self.replaces
        }

    @classmethod
    def examples(cls) -> tuple[ReadOffValue, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> WorkedSurrounding:
        # Values 2 and 3 of two heads: q = (5*2 - 3, 4*3) = (7, 12), k = (0.5*2 + 2*3, 3*2 - 7*3) = (7, -15).
        v = torch.tensor([2.0, 3.0]).reshape(1, 1, 2, 1)
        params = {
            "q": torch.tensor([[5.0, -1.0], [0.0, 4.0]]).reshape(1, 2, 2, 1),
            "k": torch.tensor([[0.5, 2.0], [3.0, -7.0]]).reshape(1, 2, 2, 1),
        }
        expected = {
            "q": torch.tensor([7.0, 12.0]).reshape(1, 1, 1, 2),
            "k": torch.tensor([7.0, -15.0]).reshape(1, 1, 1, 2),
        }
        return WorkedSurrounding(cls(), {"v": v}, expected, params)
