from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ttr.problem import Solver


@dataclass(frozen=True)
class ExactLocalFit(Solver):
    """The exact fit of a polynomial around every query, with the weights gamma_i^(t) kernel(q_t, k_i) brought to sum 1."""

    exact: ClassVar[Literal["local"]] = "local"

    def objective(self, predict: Callable[[Tensor, Tensor], Tensor], memory: Tensor, *data: Tensor) -> Tensor:
        """``data`` = displacement features [...,N,1+F] with a leading 1, values [...,N,V], weights [...,N], ridge [];
        memory [...,1+F,V], whose first row is the constant and is not regularised."""
        features, values, weights, ridge = data
        error = (weights[..., None] * (values - predict(memory, features)).square()).sum()
        return 0.5 * error + 0.5 * (ridge * memory[..., 1:, :].square()).sum()

    @classmethod
    def examples(cls) -> tuple[ExactLocalFit, ...]:
        return (cls(),)
