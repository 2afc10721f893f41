from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.product import Product


def cases() -> tuple[HandWorked, ...]:
    # The scores q_t.k_i / 2 = 6 | -2.5, -3.5 | -1.25, 1, -4.5 times gamma, from decays 0.5, 0.8, 0.25 and
    # importances 0.5, 3, 0.25: gamma = 0.5 | 0.4, 3 | 0.1, 0.75, 0.25. y_1 = 3 v_1, y_2 = -v_1 - 10.5 v_2,
    # y_3 = -0.125 v_1 + 0.75 v_2 - 1.125 v_3.
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
        HandWorked(
            Problem(Product((Geometric(), Importance())), Linear(scale=0.5), OneStep()), q, k, v, y, controls
        ),
    )
