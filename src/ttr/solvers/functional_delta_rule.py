from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ttr.problem import Function, Problem, Solver, Weights, Worked


@dataclass(frozen=True)
class FunctionalDeltaRule(Solver):
    """The delta rule in function space: pairs are kept with corrected values (DeltaFormer, arXiv 2505.19488).

        u_t = v_t - beta_t m_{t-1}(q_t)          y_t = m_t(q_t)

    where m_t is the constant fitted around a query to the pairs (k_j, u_j), j <= t, and beta the control
    ``step_size``. What the older pairs say is read at the token's query, not at its key, and through the
    normalised kernel.
    """

    exact: ClassVar[Literal["local"]] = "local"
    corrects: ClassVar[bool] = True

    def controls(self) -> dict[str, str]:
        return {"step_size": "BTH"}

    def formulas(self) -> dict[str, str]:
        return {
            "objective": "sum_{i<=t} p_i ||v_i - b_t||^2 / 2 with corrected values v_i",
            "update": "v_t <- v_t - step_size_t sum_{i<t} p_i v_i, p_i = gamma_i^(t) kappa(q_t, k_i) / "
            "sum_{j<t} gamma_j^(t) kappa(q_t, k_j), "
            "kept with k_t",
            "order": (
                "decay, then correct the value by what the older pairs say at the query, then "
                "write, then read"
            ),
            "parallel form": (
                "(I + diag(step_size) P) U = V by substitution, P the softmax over j < t; "
                "Y is the softmax over j <= t times U"
            ),
            "approximation": "A functional gradient step would measure the error at the key and with "
            "the kernel as it is; here it is measured at "
            "the query, through weights that sum to 1.",
        }

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        if function.local_degree != 0:
            return (
                f"{type(self).__name__} corrects values by the constant fitted around the query, and "
                f"{type(function).__name__} fits another map. "
                "Use LocalConstant, or ExactLocalFit."
            )
        return None

    @classmethod
    def examples(cls) -> tuple[FunctionalDeltaRule, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.local_constant import LocalConstant
        from ttr.weights.uniform import Uniform

        # q_t.k_i = 6.75 | -2, -4 | 1.75, -0.25, -1.25 with scale ln 2: weights as 1 | 4 : 1 | 8 : 2 : 1.
        # Steps 0.5, 0.7, 0.4.
        # t = 1: nothing is known, u_1 = v_1 = y_1.
        # t = 2: u_2 = v_2 - 0.7 u_1 = (-3.4, 6.1, 2.65); y_2 = (4 u_1 + u_2) / 5 = (4.6, -5.9, 4.65) / 5.
        # t = 3: known (8 u_1 + 2 u_2) / 10 = (0.92, -1.18, 0.93); u_3 = v_3 - 0.4 (0.92, -1.18, 0.93) =
        #   (4.632, -0.028, -4.372); y_3 = (8 u_1 + 2 u_2 + u_3) / 11 = (13.832, -11.828, 4.928) / 11.
        q, k, v, y = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[3, 0.5], [0.5, -2], [0.5, 0.5]],
                [[2, 1.5], [-2, 1.5], [-0.5, -2]],
                [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
                [[2, -3, 0.5], [0.92, -1.18, 0.93], [13.832 / 11, -11.828 / 11, 0.448]],
            )
        )
        step = {"step_size": torch.tensor([[[0.5], [0.7], [0.4]]], dtype=torch.float64)}
        return (Worked(Problem(Uniform(), LocalConstant(scale=math.log(2)), cls()), q, k, v, y, step),)
