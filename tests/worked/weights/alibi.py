from __future__ import annotations

import math

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.alibi import Alibi


def cases() -> tuple[HandWorked, ...]:
    # Six heads with the same q, k, v. Four is the power of two below: slopes 2^-1.5, 2^-3, 2^-4.5, 2^-6
    # (ratio 2^(-6/4)). The other two take the first and third of the sequence for eight heads (ratio
    # 2^(-6/8)): 2^-0.75 and 2^-2.25. The scores q_t.k_i / 2 are: 6 at t = 1; -2.5, -3.5 at t = 2; -1.25, 1,
    # -4.5 at t = 3.
    # With a = exp(-slope): y_1 = 6 v_1, y_2 = -2.5 a v_1 - 3.5 v_2, y_3 = -1.25 a^2 v_1 + a v_2 - 4.5 v_3.
    q, k, v = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[3, 2], [2, -0.5], [-2, 4]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
        )
    )
    y = torch.tensor(
        [
            [
                [12, -18, 3],
                [7 - 5 * a, 7.5 * a - 14, -1.25 * a - 10.5],
                [-22.5 - 2 * a - 2.5 * a * a, 2.25 + 4 * a + 3.75 * a * a, 18 + 3 * a - 0.625 * a * a],
            ]
            for a in (math.exp(-(2.0**power)) for power in (-1.5, -3, -4.5, -6, -0.75, -2.25))
        ],
        dtype=torch.float64,
    )
    return (
        HandWorked(
            Problem(Alibi(exponent=6.0), Linear(scale=0.5), OneStep()),
            q.expand(-1, -1, 6, -1),
            k,
            v,
            y.transpose(0, 1)[None],
        ),
    )
