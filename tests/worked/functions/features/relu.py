from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.features.relu import Relu
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.uniform import Uniform


def cases() -> tuple[HandWorked, ...]:
    # phi(q) = (2, 3), (0, 2), (0.5, 0), phi(k) = (3, 2), (2, 0), (0, 4). The scores phi(q_t).phi(k_i) / 2
    # are 6 | 2, 0 | 0.75, 0.5, 0.
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[3, 2], [2, -0.5], [-2, 4]],
            [[2, -3, 0.75], [-2, 4, 3], [5, -0.5, -4]],
            [[12, -18, 4.5], [4, -6, 1.5], [0.5, -0.25, 2.0625]],
        )
    )
    return (HandWorked(Problem(Uniform(), Linear(Relu(), scale=0.5), OneStep()), q, k, v, y),)
