from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.problem import Problem, Solver, Worked


@dataclass(frozen=True)
class ExactLocalFit(Solver):
    """The exact fit of a polynomial around every query, with the weights gamma_i^(t) kernel(q_t, k_i) brought
    to sum 1."""

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
                "slope where there is one"
            ),
            "update": "the pairs themselves are kept, each with its log gamma_i^(t)",
            "order": "decay, then write, then fit and read",
            "parallel form": (
                "P = softmax(s Q K^T + log Gamma) in blocks of queries, and of P all sums of the read-out"
            ),
        }

    @classmethod
    def examples(cls) -> tuple[ExactLocalFit, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.local_linear import LocalLinear
        from ttr.weights.geometric import Geometric
        from ttr.weights.importance import Importance
        from ttr.weights.product import Product

        # q_t.k_i = 6.75 | -2, -4 | 1.75, -0.25, -1.25 with scale ln 2: kernel as 1 | 4 : 1 | 8 : 2 : 1.
        # gamma, from decays 0.5, 0.8, 0.25 and importances 0.5, 3, 0.25, is 0.5 | 0.4, 3 | 0.1, 0.75, 0.25.
        # Their products brought to sum 1: p = 1 | (8, 15) / 23 | (16, 30, 5) / 51. y = sum a_i v_i with a_i =
        # p_i (1 - (k_i - kbar).rho), (C + diag(ridge)) rho = kbar - q, kbar and C the mean and covariance
        # under p.
        # t = 2: kbar = (-14/23, 1.5), C + ridge = diag(4369/1058, 2), rho = (-69/257, 7/4), a = (152, 105) /
        #     257.
        # t = 3: kbar = (-61, 118) / 102, C + ridge = [[19636, -175], [., 16039]] / 5202, rho = (-594881,
        #   432004) / 2058243, a = (1084088, 632945, 341210) / 2058243.
        q, k, v, y = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[3, 0.5], [0.5, -2], [0.5, 0.5]],
                [[2, 1.5], [-2, 1.5], [-0.5, -2]],
                [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
                [
                    [2, -3, 0.5],
                    [94 / 257, -36 / 257, 391 / 257],
                    [2608336 / 2058243, -891089 / 2058243, 1076039 / 2058243],
                ],
            )
        )
        controls = {
            "ridge": torch.tensor([[0.5, 2]], dtype=torch.float64),
            "log_decay": torch.tensor([[[0.5], [0.8], [0.25]]], dtype=torch.float64).log(),
            "log_importance": torch.tensor([[[0.5], [3], [0.25]]], dtype=torch.float64).log(),
        }
        return (
            Worked(
                Problem(Product((Geometric(), Importance())), LocalLinear(scale=math.log(2)), cls()),
                q,
                k,
                v,
                y,
                controls,
            ),
        )
