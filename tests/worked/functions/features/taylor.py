from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.features.taylor import Taylor
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.uniform import Uniform


def cases() -> tuple[HandWorked, ...]:
    # With d = q_t.k_i the kernel is 1 + d r + d^2 / 4, r = 1 / sqrt(2). d = 12 | -5, -7 | -2.5, 2, -9, so the
    # kernel over 2 is 18.5 + 6 r | 3.625 - 2.5 r, 6.625 - 3.5 r | 1.28125 - 1.25 r, 1 + r, 10.625 - 4.5 r,
    # and y_t the sum of these times v_i.
    r = 0.5**0.5
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[3, 2], [2, -0.5], [-2, 4]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            [
                [37 + 12 * r, -55.5 - 18 * r, 9.25 + 3 * r],
                [-6 + 2 * r, 15.625 - 6.5 * r, 21.6875 - 11.75 * r],
                [53.6875 - 27 * r, -5.15625 + 10 * r, -38.859375 + 20.375 * r],
            ],
        )
    )
    return (HandWorked(Problem(Uniform(), Linear(Taylor(), scale=0.5), OneStep()), q, k, v, y),)
