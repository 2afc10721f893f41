from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Gate, Streams, soft_cap
from ttr.layer.sizes import Sizes
from ttr.operators import wide


@dataclass(frozen=True)
class LogSigmoidDecay(Gate):
    """log_decay = log sigmoid(W x + bias) per head (Forgetting Transformer, arXiv 2503.02130; MesaNet,
    2506.05233).

    ``bias`` is where the bias of the first head starts, 0 forgetting half at every token, and ``bias`` +
    ``spread`` that of the last. ``cap`` keeps W x + bias between -cap and cap by a hyperbolic tangent (xLSTM,
    2503.13427).
    """

    bias: float = 0.0
    spread: float = 0.0
    cap: float | None = None

    makes: ClassVar[tuple[str, ...]] = ("log_decay",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        def biases(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
            return torch.linspace(self.bias, self.bias + self.spread, shape[0])

        return {
            "weight": Parameter((sizes.heads, sizes.d_model), fan_in(sizes.d_model)),
            "bias": Parameter((sizes.heads,), biases),
        }

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        logits = wide(streams["x"] @ params["weight"].mT) + wide(params["bias"])
        return {
            "log_decay": torch.nn.functional.logsigmoid(
                logits if self.cap is None else soft_cap(logits, self.cap)
            )
        }

    @classmethod
    def examples(cls) -> tuple[LogSigmoidDecay, ...]:
        return (cls(), cls(bias=3.0, spread=3.0, cap=15.0))
