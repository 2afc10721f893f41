from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ttr.forms import SecondMoments
from ttr.problem import Solver


@dataclass(frozen=True)
class ExactRidge(Solver):
    """The exact ridge regression of all pairs at every token: S_t = (H_t + diag(ridge))^-1 U_t with H_t =
    sum_i gamma_i k_i k_i^T and U_t = sum_i gamma_i k_i v_i^T (MesaNet, arXiv 2506.05233; Intention,
    2305.10203).

    The ridge is constant in time: it does not decay with the pairs.
    """

    exact: ClassVar[Literal["global"]] = "global"
    form: ClassVar[type] = SecondMoments

    def state(
        self, feature_size: int, value_size: int, memory: Mapping[str, tuple[int, ...]]
    ) -> dict[str, tuple[int, ...]]:
        return {"gram": (feature_size, feature_size)}

    def controls(self) -> dict[str, str]:
        return {"ridge": "HF"}

    def objective(self, predict: Callable[[Tensor, Tensor], Tensor], memory: Tensor, *data: Tensor) -> Tensor:
        """``data`` = keys [...,N,F], values [...,N,V], weights [...,N], ridge [...,F]; memory [...,F,V]."""
        keys, values, weights, ridge = data
        error = (weights[..., None] * (values - predict(memory, keys)).square()).sum()
        return 0.5 * error + 0.5 * (ridge[..., None] * memory.square()).sum()

    def formulas(self) -> dict[str, str]:
        return {
            "objective": "sum_{i<=t} gamma_i^(t) ||v_i - S^T phi(k_i)||^2 / 2 + tr(S^T diag(ridge) S) / 2",
            "update": "S_t = (H_t + diag(ridge))^-1 U_t, H_t = sum_{i<=t} gamma_i^(t) phi(k_i) "
            "phi(k_i)^T, "
            "U_t = sum_{i<=t} gamma_i^(t) phi(k_i) v_i^T",
            "order": "decay, then write, then solve and read; the ridge does not decay",
            "parallel form": (
                "(H_t + diag(ridge)) x_t = phi(q_t) for all t of a chunk together, y_t = s U_t^T x_t"
            ),
        }

    @classmethod
    def examples(cls) -> tuple[ExactRidge, ...]:
        return (cls(),)
