from __future__ import annotations

import math

import torch

from tests.worked import HandWorked
from ttr.functions.local_linear import LocalLinear
from ttr.problem import Problem
from ttr.solvers.learned_slope import LearnedSlope
from ttr.weights.uniform import Uniform


def cases() -> tuple[HandWorked, ...]:
    # q_t.k_i = 6.75 | -2, -4 | 1.75, -0.25, -1.25, scale ln 2: p = 1 | (4, 1) / 5 | (8, 2, 1) / 11. One pair
    # alone: y = v_1. t = 2: kbar = (1.2, 1.5), (k_i - kbar).r = 0.2, -0.8, a = (0.64, 0.36).
    # t = 3: kbar = (23/22, 13/11), (k_i - kbar).r = 1.75, -6.25, -1.5, a = (-6, 14.5, 2.5) / 11.
    q, k, v, slope, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[3, 0.5], [0.5, -2], [0.5, 0.5]],
            [[2, 1.5], [-2, 1.5], [-0.5, -2]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            [[0.5, -2], [0.25, 0.75], [2, -0.5]],
            [[2, -3, 0.5], [0.56, -0.48, 1.4], [-28.5 / 11, 74.75 / 11, 30.5 / 11]],
        )
    )
    return (
        HandWorked(
            Problem(Uniform(), LocalLinear(scale=math.log(2)), LearnedSlope()), q, k, v, y, {"slope": slope}
        ),
    )
