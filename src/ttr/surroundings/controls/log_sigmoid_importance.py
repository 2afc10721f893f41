from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.surroundings import Controls, Sizes, Streams, WorkedSurrounding, fan_in, wide


@dataclass(frozen=True)
class LogSigmoidImportance(Controls):
    """log_importance = log sigmoid(W x + bias) per head and pair (MesaNet's beta, arXiv 2506.05233)."""

    makes: ClassVar[tuple[str, ...]] = ("log_importance",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        shape = (*sizes.per_pair, sizes.heads)
        return {"weight": Parameter((*shape, sizes.d_model), fan_in(sizes.d_model)), "bias": Parameter(shape, constant(0.0))}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        logits = torch.einsum("btd,...d->bt...", streams["x"], params["weight"])
        return {"log_importance": torch.nn.functional.logsigmoid(wide(logits) + wide(params["bias"]))}

    @classmethod
    def examples(cls) -> tuple[LogSigmoidImportance, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> WorkedSurrounding:
        # x = 2, two pairs of one head: logits 0.5*2 + ln 3 - 1 = ln 3 and -1.5*2 + 3 = 0: ln 3/4 and ln 1/2.
        params = {"weight": torch.tensor([[[0.5]], [[-1.5]]]), "bias": torch.tensor([[1.0986122886681098 - 1], [3.0]])}
        expected = torch.tensor([-0.2876820724517809, -0.6931471805599453]).reshape(1, 1, 2, 1)
        return WorkedSurrounding(cls(), {"x": torch.tensor([[[2.0]]])}, {"log_importance": expected}, params)
