from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.problem import Problem, Solver, Worked


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
            "orthonormal, for it leaves the covariance of the keys out.",
        }

    @classmethod
    def examples(cls) -> tuple[OneStep, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.linear import Linear
        from ttr.weights.geometric import Geometric
        from ttr.weights.importance import Importance
        from ttr.weights.product import Product

        # The scores q_t.k_i / 2 = 6 | -2.5, -3.5 | -1.25, 1, -4.5 times gamma, from decays 0.5, 0.8, 0.25 and
        # importances 0.5, 3, 0.25: gamma = 0.5 | 0.4, 3 | 0.1, 0.75, 0.25. y_1 = 3 v_1, y_2 = -v_1 - 10.5
        # v_2, y_3 = -0.125 v_1 + 0.75 v_2 - 1.125 v_3.
        q, k, v, y = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2]],
                [[3, 2], [2, -0.5], [-2, 4]],
                [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
                [[6, -9, 1.5], [19, -39, -32], [-7.375, 3.9375, 6.6875]],
            )
        )
        controls = {
            "log_decay": torch.tensor([[[0.5], [0.8], [0.25]]], dtype=torch.float64).log(),
            "log_importance": torch.tensor([[[0.5], [3], [0.25]]], dtype=torch.float64).log(),
        }
        return (
            Worked(
                Problem(Product((Geometric(), Importance())), Linear(scale=0.5), cls()), q, k, v, y, controls
            ),
        )
