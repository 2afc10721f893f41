from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.surroundings import Output, Sizes, Streams, WorkedSurrounding, wide


@dataclass(frozen=True)
class LayerNorm(Output):
    """(y - mean) / deviation * gain + shift over the channels of all heads together (arXiv 1607.06450), after
    TTT's memory (2407.04620)."""

    eps: float = 1e-6

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        shape = (sizes.heads, sizes.value_size)
        return {"gain": Parameter(shape, constant(1.0)), "shift": Parameter(shape, constant(0.0))}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        y = streams["y"]
        normal = torch.nn.functional.layer_norm(
            wide(y), y.shape[-2:], wide(params["gain"]), wide(params["shift"]), self.eps
        )
        return {"y": normal.to(y.dtype)}

    @classmethod
    def examples(cls) -> tuple[LayerNorm, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> WorkedSurrounding:
        # Two heads of two channels, (6, 2) and (3, 5): mean 4, deviations 2, -2, -1, 1 of mean square 5/2;
        # with eps 3.75 the root is
        # 2.5: 0.8, -0.8, -0.4, 0.4, times the gain plus the shift.
        y = torch.tensor([[[[6.0, 2.0], [3.0, 5.0]]]])
        params = {
            "gain": torch.tensor([[2.0, 3.0], [-5.0, 0.5]]),
            "shift": torch.tensor([[0.25, -0.5], [3.0, 2.0]]),
        }
        return WorkedSurrounding(
            cls(eps=3.75), {"y": y}, {"y": torch.tensor([[[[1.85, -2.9], [5.0, 2.2]]]])}, params
        )
