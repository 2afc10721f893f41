from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class LogSigmoidImportance(Gate):
    """log_importance = power log sigmoid(W x + bias) per head and pair (MesaNet's beta, arXiv 2506.05233).

    With ``power`` 2 the sigmoid scales key and value, so that its square weighs the pair (Gated KalmaNet,
    2511.21016).
    """

    power: float = 1.0

    makes: ClassVar[tuple[str, ...]] = ("log_importance",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        shape = (*sizes.per_pair, sizes.heads)
        return {
            "weight": Parameter((*shape, sizes.d_model), fan_in(sizes.d_model)),
            "bias": Parameter(shape, constant(0.0)),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        logits = torch.einsum("btd,...d->bt...", streams["x"], params["weight"])
        return {
            "log_importance": self.power * torch.nn.functional.logsigmoid(wide(logits) + wide(params["bias"]))
        }

    @classmethod
    def examples(cls) -> tuple[LogSigmoidImportance, ...]:
        return (cls(), cls(power=2.0))
