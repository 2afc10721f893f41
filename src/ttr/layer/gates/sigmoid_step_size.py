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
class SigmoidStepSize(Gate):
    """step_size = sigmoid(W x), one per head and pair (DeltaNet, arXiv 2406.06484).

    ``doubled`` to the range (0, 2) it lets a unit key be reflected: negative eigenvalues of the update (arXiv
    2411.12537).
    """

    doubled: bool = False

    makes: ClassVar[tuple[str, ...]] = ("step_size",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"weight": Parameter((*sizes.per_pair, sizes.heads, sizes.d_model), fan_in(sizes.d_model))}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        step = torch.sigmoid(wide(torch.einsum("btd,...d->bt...", streams["x"], params["weight"])))
        return {"step_size": 2 * step if self.doubled else step}

    @classmethod
    def examples(cls) -> tuple[SigmoidStepSize, ...]:
        return (cls(), cls(doubled=True))
