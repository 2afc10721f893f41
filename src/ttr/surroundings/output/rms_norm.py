from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.operators.rms_norm import rms_norm
from ttr.surroundings import Output, Sizes, Streams, WorkedSurrounding


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

    @classmethod
    def worked(cls) -> WorkedSurrounding:
        # Over both heads: mean square (1 + 9 + 25 + 49) / 4 = 21, plus eps 4: root 5.
        y = torch.tensor([[1.0, 3.0], [5.0, 7.0]]).reshape(1, 1, 2, 2)
        gain = torch.tensor([[5.0, 10.0], [2.0, -1.0]])
        expected = torch.tensor([[1.0, 6.0], [2.0, -1.4]]).reshape(1, 1, 2, 2)
        return WorkedSurrounding(cls(over="all", eps=4.0), {"y": y}, {"y": expected}, {"gain": gain})
