from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ttr.component import Parameter, constant
from ttr.inputs import repeat_heads
from ttr.layer.part import QKVTransform, Streams
from ttr.layer.sizes import Sizes


@dataclass(frozen=True)
class HeadBias(QKVTransform):
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
