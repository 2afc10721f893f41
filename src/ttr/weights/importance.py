from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ttr.problem import Weights


@dataclass(frozen=True)
class Importance(Weights):
    """Each pair has the weight exp(log_importance_i), whatever its age. Multiply by ``Geometric`` to add
    decay."""

    importance: ClassVar[bool] = True

    def controls(self) -> dict[str, str]:
        return {"log_importance": "BTH"}

    def log_importance(self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> Tensor:
        return controls["log_importance"]

    def formulas(self) -> dict[str, str]:
        return {"weight": "gamma_i^(t) = w_i, w_i = exp(log_importance_i)"}

    @classmethod
    def examples(cls) -> tuple[Importance, ...]:
        return (cls(),)
