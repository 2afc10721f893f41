from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.trapezoid import Trapezoid


def cases() -> tuple[HandWorked, ...]:
    # Decays 0.5, 0.8, 0.25, steps 0.5, 3, 0.4, shares 0.6, 0.25, 0.75. Weights l_i d_i of the newest pair 0.3
    # | 0.75 | 0.3, of older ones with (1 - l) d of the next token: pair 1 0.8 (0.3 + 2.25) = 2.04, then 0.25
    # * 2.04 = 0.51; pair 2 0.25 (0.75 + 0.1) = 0.2125. The scores q_t.k_i / 2 = 6 | -2.5, -3.5 | -1.25, 1,
    # -4.5: y_1 = 1.8 v_1, y_2 = -5.1 v_1 - 2.625 v_2, y_3 = -0.6375 v_1 + 0.2125 v_2 - 1.35 v_3.
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[3, 2], [2, -0.5], [-2, 4]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            [[3.6, -5.4, 0.9], [-4.95, 4.8, -10.425], [-8.45, 3.4375, 5.71875]],
        )
    )
    decay, step, newer = (
        torch.tensor(x, dtype=torch.float64).reshape(1, 3, 1)
        for x in ([0.5, 0.8, 0.25], [0.5, 3, 0.4], [0.6, 0.25, 0.75])
    )
    controls = {"log_decay": decay.log(), "log_importance": step.log(), "trapezoid": newer}
    return (HandWorked(Problem(Trapezoid(), Linear(scale=0.5), OneStep()), q, k, v, y, controls),)
