from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.cosine import Cosine


def cases() -> tuple[HandWorked, ...]:
    # The scores q_t.k_i / 2 are: 6 at t = 1; -2.5, -3.5 at t = 2; -1.25, 1, -4.5 at t = 3. With the horizon 3
    # a pair of age 1 counts cos 30 = r = sqrt(3) / 2 and one of age 2 cos 60 = 1/2: y_2 = -2.5 r v_1 - 3.5
    # v_2, y_3 = -0.625 v_1 + r v_2 - 4.5 v_3.
    r = 3**0.5 / 2
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[3, 2], [2, -0.5], [-2, 4]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            [
                [12, -18, 3],
                [7 - 5 * r, 7.5 * r - 14, -1.25 * r - 10.5],
                [-23.75 - 2 * r, 4.125 + 4 * r, 17.6875 + 3 * r],
            ],
        )
    )
    return (HandWorked(Problem(Cosine(horizon=3), Linear(scale=0.5), OneStep()), q, k, v, y),)
