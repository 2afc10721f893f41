from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ttr.component import Parameter, constant
from ttr.layer.part import Output, Streams
from ttr.layer.sizes import Sizes
from ttr.operators.rms_norm import rms_norm


@dataclass(frozen=True)
class RMSNorm(Output):
    """y / rms(y) * gain (arXiv 1910.07467), ``over`` the channels of each head, the gain shared by the heads,
    or over all."""

    over: Literal["head", "all"] = "head"
    eps: float = 1e-5

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {
            "gain": Parameter(
                (sizes.value_size,) if self.over == "head" else (sizes.heads, sizes.value_size), constant(1.0)
            )
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {"y": rms_norm(streams["y"], self.eps, gain=params["gain"])}

    @classmethod
    def examples(cls) -> tuple[RMSNorm, ...]:
        return (cls(), cls(over="all"))
