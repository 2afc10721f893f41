from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ttr.component import Parameter, constant
from ttr.inputs import repeat_heads
from ttr.layer.part import QKVTransform, Streams
from ttr.layer.sizes import Sizes


@dataclass(frozen=True)
class RateScaledKey(QKVTransform):
    """k <- k (1 + (a - 1) c) with the in-context learning rate a of every channel and a learned c (RWKV-7,
    arXiv 2503.14456)."""

    reads: ClassVar[tuple[str, ...]] = ("learning_rate",)

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"strength": Parameter((sizes.heads, sizes.key_size), constant(1.02))}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        factor = 1 + (streams["learning_rate"] - 1) * params["strength"]
        return {"k": (repeat_heads(streams["k"], factor.shape[-2]) * factor).to(streams["k"].dtype)}

    @classmethod
    def examples(cls) -> tuple[RateScaledKey, ...]:
        return (cls(),)
