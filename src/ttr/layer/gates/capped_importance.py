from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ttr.component import Parameter, constant
from ttr.layer.part import Gate, Streams, soft_cap
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class CappedImportance(Gate):
    """log_importance = c tanh((W x + bias) / c) per head: the input gate of xLSTM (arXiv 2405.04517, cap c of
    2503.13427).

    W starts at 0 and the bias at ``bias``, so that little is written until it is learned.
    """

    cap: float = 15.0
    bias: float = -10.0

    makes: ClassVar[tuple[str, ...]] = ("log_importance",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {
            "weight": Parameter((sizes.heads, sizes.d_model), constant(0.0)),
            "bias": Parameter((sizes.heads,), constant(self.bias)),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {
            "log_importance": soft_cap(
                wide(streams["x"] @ params["weight"].mT) + wide(params["bias"]), self.cap
            )
        }

    @classmethod
    def examples(cls) -> tuple[CappedImportance, ...]:
        return (cls(), cls(cap=4.0, bias=-1.0))
