from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.features.identity import Identity
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.uniform import Uniform


def cases() -> tuple[HandWorked, ...]:
    # The scores q_t.k_i / 2 are: -2.5 at t = 1; -2.25, 3.125 at t = 2; 2.75, -1.875, -1.5 at t = 3. y_t
    #     is the sum of these times v_i.
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, -3], [-3, 0.5], [2, 0.5]],
            [[2, 3], [-2, 0.5], [-2.5, 4]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            [[-5, 7.5, -1.25], [-10.75, 19.25, 8.25], [1.75, -15, 1.75]],
        )
    )
    return (HandWorked(Problem(Uniform(), Linear(Identity(), scale=0.5), OneStep()), q, k, v, y),)
