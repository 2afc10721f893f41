from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.initialisers import fan_in
from ttr.layer.part import QKVTransform, Streams, newest_pair
from ttr.layer.sizes import Sizes


@dataclass(frozen=True)
class ReadOffValue(QKVTransform):
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
