from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.part import QKVTransform, Streams
from ttr.layer.sizes import Sizes


@dataclass(frozen=True)
class ComplementKey(QKVTransform):
    """k = 1 - exp(log_decay) per channel: what is forgotten makes room for what is written (HGRN2, arXiv
    2404.07904)."""

    reads: ClassVar[tuple[str, ...]] = ("log_decay",)

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        if sizes.pairs > 1 or sizes.key_heads != sizes.heads:
            raise ValueError(
                "ComplementKey makes the key of a head from its retention and needs one for "
                "each. "
                f"Use key_heads = {sizes.heads} and one pair per token."
            )
        return {}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {"k": -torch.expm1(streams["log_decay"]).to(streams["k"].dtype)}

    @classmethod
    def examples(cls) -> tuple[ComplementKey, ...]:
        return (cls(),)
