from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.features.elu_plus_one import EluPlusOne
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.uniform import Uniform


def cases() -> tuple[HandWorked, ...]:
    # phi(x) = x + 1 above 0, exp(x) below: phi(q) = (3, 4), (e^-3, 3), (1.5, e^-2), phi(k) = (4, 3), (3,
    # e^-0.5), (e^-2, 5). The scores phi(q_t).phi(k_i) / 2 are 12 | 2 e^-3 + 4.5 = 4.599574136736, 1.5 (e^-3 +
    # e^-0.5) = 0.984476592121 | 3 + 1.5 e^-2 = 3.203002924855, 2.25 + 0.5 e^-2.5 = 2.291042499312, 3.25 e^-2
    # = 0.439839670519.
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[3, 2], [2, -0.5], [-2, 4]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            [
                [24, -36, 6],
                [7.230195089230, -9.860816041724, 5.253216844730],
                [4.023119203681, -0.664758612576, 6.715270278287],
            ],
        )
    )
    return (HandWorked(Problem(Uniform(), Linear(EluPlusOne(), scale=0.5), OneStep()), q, k, v, y),)
