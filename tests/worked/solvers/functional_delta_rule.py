from __future__ import annotations

import math

import torch

from tests.worked import HandWorked
from ttr.functions.local_constant import LocalConstant
from ttr.problem import Problem
from ttr.solvers.functional_delta_rule import FunctionalDeltaRule
from ttr.weights.uniform import Uniform


def cases() -> tuple[HandWorked, ...]:
    # q_t.k_i = 6.75 | -2, -4 | 1.75, -0.25, -1.25 with scale ln 2: weights as 1 | 4 : 1 | 8 : 2 : 1. Steps
    # 0.5, 0.7, 0.4. t = 1: nothing is known, u_1 = v_1 = y_1.
    # t = 2: u_2 = v_2 - 0.7 u_1 = (-3.4, 6.1, 2.65); y_2 = (4 u_1 + u_2) / 5 = (4.6, -5.9, 4.65) / 5. t = 3:
    # known (8 u_1 + 2 u_2) / 10 = (0.92, -1.18, 0.93); u_3 = v_3 - 0.4 (0.92, -1.18, 0.93) = (4.632, -0.028,
    # -4.372);
    #   y_3 = (8 u_1 + 2 u_2 + u_3) / 11 = (13.832, -11.828, 4.928) / 11.
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
    return (
        HandWorked(
            Problem(Uniform(), LocalConstant(scale=math.log(2)), FunctionalDeltaRule()), q, k, v, y, step
        ),
    )
