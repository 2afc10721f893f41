from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.surroundings import Output, Sizes, Streams, WorkedSurrounding, fan_in


@dataclass(frozen=True)
class GeluGate(Output):
    """y * gelu(W x), channel by channel, with the tanh form of GELU (the branch beside Griffin's recurrence,
    arXiv 2402.19427)."""

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"weight": Parameter((sizes.heads, sizes.value_size, sizes.d_model), fan_in(sizes.d_model))}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        logits = torch.einsum("btd,hvd->bthv", streams["x"], params["weight"])
        return {"y": streams["y"] * torch.nn.functional.gelu(logits, approximate="tanh")}

    @classmethod
    def examples(cls) -> tuple[GeluGate, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> WorkedSurrounding:
        # x = 2: logits 2 and -2. gelu(z) = z / 2 (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))), and 2 + 0.35772
        # = 2.35772 times 0.7978845608 is 1.8811883866, of tanh 0.9545976941: 1.9545976941 and -0.0454023059.
        streams = {"x": torch.tensor([[[2.0]]]), "y": torch.tensor([8.0, -4.0]).reshape(1, 1, 1, 2)}
        params = {"weight": torch.tensor([[[1.0], [-1.0]]])}
        expected = torch.tensor([8 * 1.954597694087775, 4 * 0.045402305912225]).reshape(1, 1, 1, 2)
        return WorkedSurrounding(cls(), streams, {"y": expected}, params)
