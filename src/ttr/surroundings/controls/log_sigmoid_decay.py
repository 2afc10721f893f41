from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.surroundings import Controls, Sizes, Streams, WorkedSurrounding, fan_in, wide


@dataclass(frozen=True)
class LogSigmoidDecay(Controls):
    """log_decay = log sigmoid(W x + bias) per head (Forgetting Transformer, arXiv 2503.02130; MesaNet, 2506.05233).

    ``bias`` is where the bias starts: 0 forgets half at every token.
    """

    bias: float = 0.0

    makes: ClassVar[tuple[str, ...]] = ("log_decay",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"weight": Parameter((sizes.heads, sizes.d_model), fan_in(sizes.d_model)), "bias": Parameter((sizes.heads,), constant(self.bias))}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {"log_decay": torch.nn.functional.logsigmoid(wide(streams["x"] @ params["weight"].mT) + wide(params["bias"]))}

    @classmethod
    def examples(cls) -> tuple[LogSigmoidDecay, ...]:
        return (cls(), cls(bias=3.0))

    @classmethod
    def worked(cls) -> WorkedSurrounding:
        # x = 2: logits 0.5*2 + ln 3 - 1 = ln 3 and -1.5*2 + 3 = 0: ln 3/4 and ln 1/2.
        params = {"weight": torch.tensor([[0.5], [-1.5]]), "bias": torch.tensor([1.0986122886681098 - 1, 3.0])}
        expected = torch.tensor([[[-0.2876820724517809, -0.6931471805599453]]])
        return WorkedSurrounding(cls(), {"x": torch.tensor([[[2.0]]])}, {"log_decay": expected}, params)
