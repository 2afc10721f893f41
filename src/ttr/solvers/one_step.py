from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ttr.problem import Solver


@dataclass(frozen=True)
class OneStep(Solver):
    """One full gradient step of length 1 from an empty memory: S_t = sum_i gamma_i phi(k_i) v_i^T.

    It ignores the covariance of the keys: the exact minimiser not of the squared error but of 1/2 ||S||^2 -
    sum_i gamma_i <S^T phi(k_i), v_i>. This is linear attention and all its gated forms.
    """

    additive: ClassVar[bool] = True

    def objective(self, predict: Callable[[Tensor, Tensor], Tensor], memory: Tensor, *data: Tensor) -> Tensor:
        """``data`` = keys [...,N,F], values [...,N,V], weights [...,N] of one memory [...,F,V]."""
        keys, values, weights = data
        return 0.5 * memory.square().sum() - (weights[..., None] * predict(memory, keys) * values).sum()

    def formulas(self) -> dict[str, str]:
        return {
            "objective": "||S||^2 / 2 - sum_{i<=t} gamma_i^(t) v_i^T S^T phi(k_i)",
            "update": "S_t = D_t S_{t-1} + w_t phi(k_t) v_t^T = sum_{i<=t} gamma_i^(t) phi(k_i) v_i^T",
            "order": "decay, then write, then read",
            "parallel form": (
                "Y = s (Gamma * phi(Q) phi(K)^T) V in chunks of tokens, Gamma_ti = gamma_i^(t) for i <= t"
            ),
            "approximation": "One gradient step from an empty memory. It is the least-squares fit only "
            "where the weighted keys are "
            "orthonormal, since it ignores the covariance of the keys.",
        }

    @classmethod
    def examples(cls) -> tuple[OneStep, ...]:
        return (cls(),)
