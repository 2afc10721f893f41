from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.inputs import repeat_heads
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes


@dataclass(frozen=True)
class ScaledReadKey(Gate):
    """read_key = sigmoid(b) k per head, k as the memory gets it: less is taken out at k than is put in
    (Comba, arXiv 2506.02475)."""

    makes: ClassVar[tuple[str, ...]] = ("read_key",)
    axes: ClassVar[str] = "BTHK"
    after_qkv: ClassVar[bool] = True

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"share": Parameter((sizes.heads,), constant(1.0))}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        share = torch.sigmoid(params["share"])[:, None]
        return {"read_key": share * repeat_heads(streams["k"], len(share))}

    @classmethod
    def examples(cls) -> tuple[ScaledReadKey, ...]:
        return (cls(),)
