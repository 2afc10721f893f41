from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ttr.problem import Solver


@dataclass(frozen=True)
class ExactLocalFit(Solver):
    """The exact fit of a polynomial around every query, with the weights gamma_i^(t) kernel(q_t, k_i)
    normalised to sum 1."""

    exact: ClassVar[Literal["local"]] = "local"

    def objective(self, predict: Callable[[Tensor, Tensor], Tensor], memory: Tensor, *data: Tensor) -> Tensor:
        """``data`` = displacement features [...,N,1+F] with a leading 1, values [...,N,V], weights [...,N],
        ridge [...,F]; memory [...,1+F,V], whose first row is the constant and is not regularised."""
        features, values, weights, ridge = data
        error = (weights[..., None] * (values - predict(memory, features)).square()).sum()
        return 0.5 * error + 0.5 * (ridge[..., None] * memory[..., 1:, :].square()).sum()

    def formulas(self) -> dict[str, str]:
        return {
            "objective": (
                "sum_{i<=t} p_i ||v_i - m_t(k_i)||^2 / 2 + tr(A diag(ridge) A^T) / 2, A the "
                "slope if there is one"
            ),
            "update": "the pairs themselves are stored, each with its log gamma_i^(t)",
            "order": "decay, then write, then fit and read",
            "parallel form": (
                "P = softmax(s Q K^T + log Gamma) in blocks of queries, and of P all sums of the read-out"
            ),
        }

    @classmethod
    def examples(cls) -> tuple[ExactLocalFit, ...]:
        return (cls(),)
