from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.inputs import repeat_heads
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class GatedKey(Gate):
    """The read or erase key as sigmoid(W x) * k, channel by channel, k as the memory gets it (Gated
    DeltaNet-2, arXiv 2605.22791)."""

    of: Literal["read_key", "erase_key"] = "read_key"

    axes: ClassVar[str] = "BTHK"
    after_qkv: ClassVar[bool] = True

    @property
    def makes(self) -> tuple[str, ...]:
        return (self.of,)

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {
            "weight": Parameter(
                (*sizes.per_pair, sizes.heads, sizes.key_size, sizes.d_model), fan_in(sizes.d_model)
            )
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        gate = torch.sigmoid(wide(torch.einsum("btd,...d->bt...", streams["x"], params["weight"])))
        return {self.of: gate * repeat_heads(streams["k"], gate.shape[-2])}

    @classmethod
    def examples(cls) -> tuple[GatedKey, ...]:
        return (cls(), cls("erase_key"))
