from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.fenwick_levels import FenwickLevels


def cases() -> tuple[HandWorked, ...]:
    # Tokens 0, 1, 2 read themselves on level 0; token 1 reads 0 on level 1, token 2 reads 0 and 1 on level 2.
    # The scores q_t.k_i / 2 = 6 | -2.5, -3.5 | -1.25, 1, -4.5 times decays 0.5, 0.8, 0.25 (6 | -2, -3.5 |
    # -0.25, 0.25, -4.5) times level weights (2, ., .) | (0.5, 3, .) | (0.2, ., 4): y_1 = 12 v_1, y_2 = -6 v_1
    # - 1.75 v_2, y_3 = -v_1 + v_2 - 0.9 v_3.
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[3, 2], [2, -0.5], [-2, 4]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            [[24, -36, 6], [-8.5, 11, -8.25], [-8.5, 7.45, 6.1]],
        )
    )
    decay = torch.tensor([[[0.5], [0.8], [0.25]]], dtype=torch.float64).log()
    weight = torch.tensor([[2, 5, 7], [0.5, 3, 6], [0.2, 8, 4]], dtype=torch.float64)[None, :, None]
    return (
        HandWorked(
            Problem(FenwickLevels(3), Linear(scale=0.5), OneStep()),
            q,
            k,
            v,
            y,
            {"log_decay": decay, "level_weight": weight},
        ),
    )
