from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.exponential_gate import ExponentialGate


def cases() -> tuple[HandWorked, ...]:
    # Importances e^200, 3 e^200, 0.25 e^200 and decays 0.5, 0.8, 0.25: in units of e^200 the scores q_t.k_i /
    # 2 = 6 | -2.5, -3.5 | -1.25, 1, -4.5 times gamma = 1 | 0.8, 3 | 0.2, 0.75, 0.25, that is 6 | -2, -10.5 |
    # -0.25, 0.75, -1.125, whose sums have the absolute values 6, 12.5 and 0.625, far above the floor.
    q, k, v, large = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[3, 2], [2, -0.5], [-2, 4]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            [
                [2, -3, 0.5],
                [17 / 12.5, -36 / 12.5, -32.5 / 12.5],
                [-7.625 / 0.625, 4.3125 / 0.625, 6.625 / 0.625],
            ],
        )
    )
    # Importances 0.5, 3, 0.25 and a floor of 4: the scores 3 | -1, -10.5 | -0.125, 0.75, -1.125 have sums 3,
    # -11.5, -0.5, the divisors 4, 11.5, 4. With no floor and eps = 0.25 the divisors are 3.25, -11.25, -0.25.
    small = torch.tensor(
        [[1.5, -2.25, 0.375], [19 / 11.5, -39 / 11.5, -32 / 11.5], [-1.84375, 0.984375, 1.671875]],
        dtype=torch.float64,
    )
    signed = torch.tensor(
        [
            [6 / 3.25, -9 / 3.25, 1.5 / 3.25],
            [-19 / 11.25, 39 / 11.25, 32 / 11.25],
            [29.5, -15.75, -26.75],
        ],
        dtype=torch.float64,
    )
    decay, importance = (
        torch.tensor(x, dtype=torch.float64).log().reshape(1, 3, 1)
        for x in ([0.5, 0.8, 0.25], [0.5, 3, 0.25])
    )
    huge = 200 + torch.tensor([1.0, 3, 0.25], dtype=torch.float64).log().reshape(1, 3, 1)
    problem = Problem(
        ExponentialGate(), Linear(normalized=True, scale=0.5, floor=4.0, absolute=True), OneStep()
    )
    plain = Problem(ExponentialGate(), Linear(normalized=True, scale=0.5, eps=0.25), OneStep())
    return (
        HandWorked(plain, q, k, v, signed[None, :, None], {"log_decay": decay, "log_importance": importance}),
        HandWorked(problem, q, k, v, large, {"log_decay": decay, "log_importance": huge}),
        HandWorked(
            problem, q, k, v, small[None, :, None], {"log_decay": decay, "log_importance": importance}
        ),
    )
