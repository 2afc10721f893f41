from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.uniform import Uniform


def cases() -> tuple[HandWorked, ...]:
    # The scores q_t.k_i / 2 are: 6 at t = 1; -2.5, -3.5 at t = 2; -1.25, 1, -4.5 at t = 3.
    # y_1 = 6 v_1, y_2 = -2.5 v_1 - 3.5 v_2, y_3 = -1.25 v_1 + v_2 - 4.5 v_3: every score counts in full.
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[3, 2], [2, -0.5], [-2, 4]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            [[12, -18, 3], [2, -6.5, -11.75], [-27, 10, 20.375]],
        )
    )
    return (HandWorked(Problem(Uniform(), Linear(scale=0.5), OneStep()), q, k, v, y),)
