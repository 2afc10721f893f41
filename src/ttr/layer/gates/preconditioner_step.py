from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ttr.component import Parameter
from ttr.layer.gates.sigmoid_step_size import SigmoidStepSize
from ttr.layer.part import Gate, Streams
from ttr.layer.sizes import Sizes


@dataclass(frozen=True)
class PreconditionerStep(Gate):
    """precond_step = sigmoid(W x), one per head, as in ``SigmoidStepSize`` (arXiv 2604.21100)."""

    makes: ClassVar[tuple[str, ...]] = ("precond_step",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return SigmoidStepSize().parameters(sizes)

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        return {"precond_step": SigmoidStepSize()(params, streams)["step_size"]}

    @classmethod
    def examples(cls) -> tuple[PreconditionerStep, ...]:
        return (cls(),)
