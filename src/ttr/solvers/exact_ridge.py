from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ttr.problem import Solver


@dataclass(frozen=True)
class ExactRidge(Solver):
    """The exact ridge regression of all pairs at every token: S_t = (H_t + diag(ridge))^-1 U_t with
    H_t = sum_i gamma_i k_i k_i^T and U_t = sum_i gamma_i k_i v_i^T (MesaNet, arXiv 2506.05233; Intention, 2305.10203).

    The ridge is constant in time: it is not forgotten with the pairs.
    """

    exact: ClassVar[Literal["global"]] = "global"

    def controls(self) -> dict[str, str]:
        return {"ridge": "HF"}

    def objective(self, predict: Callable[[Tensor, Tensor], Tensor], memory: Tensor, *data: Tensor) -> Tensor:
        """``data`` = keys [...,N,F], values [...,N,V], weights [...,N], ridge [...,F]; memory [...,F,V]."""
        keys, values, weights, ridge = data
        error = (weights[..., None] * (values - predict(memory, keys)).square()).sum()
        return 0.5 * error + 0.5 * (ridge[..., None] * memory.square()).sum()

    @classmethod
    def examples(cls) -> tuple[ExactRidge, ...]:
        return (cls(),)
