from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.window import Window


def cases() -> tuple[HandWorked, ...]:
    # The scores q_t.k_i / 2 of the two newest pairs: 6 at t = 1; -2.5, -3.5 at t = 2; 1, -4.5 at t = 3 (k_1
    # has left); -2, 1.5 at t = 4 (k_2 has left). y_3 = v_2 - 4.5 v_3, y_4 = -2 v_3 + 1.5 v_4.
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2], [3, 0.5]],
            [[3, 2], [2, -0.5], [-2, 4], [0.5, 3]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4], [3, 2, -2.5]],
            [[12, -18, 3], [2, -6.5, -11.75], [-24.5, 6.25, 21], [-5.5, 4, 4.25]],
        )
    )
    return (HandWorked(Problem(Window(2), Linear(scale=0.5), OneStep()), q, k, v, y),)
