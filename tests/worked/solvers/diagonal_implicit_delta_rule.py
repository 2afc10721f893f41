from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.diagonal_implicit_delta_rule import DiagonalImplicitDeltaRule
from ttr.weights.geometric import Geometric


def cases() -> tuple[HandWorked, ...]:
    # ||k||^2 = 2.5, 20, 25 and steps 0.4, 0.2, 0.6 make d = 0.4 / 2 = 0.2, 0.2 / 5 = 0.04, 0.6 / 16 = 0.0375.
    # Row by row: S_1 = 0.2 k_1 v_1^T = 0.1 v_1, 0.3 v_1.
    # 0.04 k_2^2 = (0.16, 0.64) keeps (0.84, 0.36) * 0.5 = (0.42, 0.18), written 0.04 k_2 = (0.08, -0.16): S_2
    # = 0.042 v_1 + 0.08 v_2, 0.054 v_1 - 0.16 v_2.
    # 0.0375 k_3^2 = (0.3375, 0.6) keeps (0.6625, 0.4) * 0.8 = (0.53, 0.32), written 0.0375 k_3 = (0.1125,
    # -0.15): S_3 = 0.02226 v_1 + 0.0424 v_2 + 0.1125 v_3, 0.01728 v_1 - 0.0512 v_2 - 0.15 v_3.
    # y_t = S_t^T q_t / 2: 0.55 v_1 | -0.009 v_1 - 0.28 v_2 | -0.011715 v_1 + 0.0618 v_2 + 0.178125 v_3.
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[0.5, 1.5], [2, -4], [3, -4]],
            [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4]],
            [[1.1, -1.65, 2.2], [0.542, -1.093, -0.876], [0.743595, 0.1932825, -0.57396]],
        )
    )
    controls = {
        "log_decay": torch.tensor([[[0.3], [0.5], [0.8]]], dtype=torch.float64).log(),
        "step_size": torch.tensor([[[0.4], [0.2], [0.6]]], dtype=torch.float64),
    }
    return (
        HandWorked(
            Problem(Geometric(), Linear(scale=0.5), DiagonalImplicitDeltaRule()), q, k, v, y, controls
        ),
    )
