from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ttr.problem import Solver


@dataclass(frozen=True)
class OneStep(Solver):
    """One full gradient step of length 1 from an empty memory: S_t = sum_i gamma_i phi(k_i) v_i^T.

    It ignores the covariance of the keys: the exact minimiser not of the squared error but of
    1/2 ||S||^2 - sum_i gamma_i <S^T phi(k_i), v_i>. This is linear attention and all its gated forms.
    """

    additive: ClassVar[bool] = True

    def objective(self, predict: Callable[[Tensor, Tensor], Tensor], memory: Tensor, *data: Tensor) -> Tensor:
        """``data`` = keys [...,N,F], values [...,N,V], weights [...,N] of one memory [...,F,V]."""
        keys, values, weights = data
        return 0.5 * memory.square().sum() - (weights[..., None] * predict(memory, keys) * values).sum()

    @classmethod
    def examples(cls) -> tuple[OneStep, ...]:
        return (cls(),)
