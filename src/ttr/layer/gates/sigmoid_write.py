from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class SigmoidWrite(Gate):
    """write = sigmoid(W x), one per head and value channel of every pair (Gated DeltaNet-2, arXiv
    2605.22791)."""

    makes: ClassVar[tuple[str, ...]] = ("write",)
    axes: ClassVar[str] = "BTHV"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {
            "weight": Parameter(
                (*sizes.per_pair, sizes.heads, sizes.value_size, sizes.d_model), fan_in(sizes.d_model)
            )
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {"write": torch.sigmoid(wide(torch.einsum("btd,...d->bt...", streams["x"], params["weight"])))}

    @classmethod
    def examples(cls) -> tuple[SigmoidWrite, ...]:
        return (cls(),)
