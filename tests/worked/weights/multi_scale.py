from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.multi_scale import MultiScale


def cases() -> tuple[HandWorked, ...]:
    # The scores q_t.k_i / 2 are: 6 at t = 1; -2.5, -3.5 at t = 2; -1.25, 1, -4.5 at t = 3.
    # Two heads with the same q, k, v keep r = 1 - 1/8 = 0.875 and 1 - 1/16 = 0.9375 of the past:
    # y_1 = 6 v_1, y_2 = -2.5 r v_1 - 3.5 v_2, y_3 = -1.25 r^2 v_1 + r v_2 - 4.5 v_3.
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
                [[12, -18, 3], [12, -18, 3]],
                [[2.625, -7.4375, -11.59375], [2.3125, -6.96875, -11.671875]],
                [[-26.1640625, 8.62109375, 20.146484375], [-26.572265625, 9.2958984375, 20.26318359375]],
            ]
        ],
        dtype=torch.float64,
    )
    # Three heads from 2 to 4 keep 0.75, 0.875 and 0.9375.
    even = torch.tensor(
        [
            [
                [12, -18, 3],
                [7 - 5 * r, 7.5 * r - 14, -1.25 * r - 10.5],
                [-22.5 - 2 * r - 2.5 * r * r, 2.25 + 4 * r + 3.75 * r * r, 18 + 3 * r - 0.625 * r * r],
            ]
            for r in (0.75, 0.875, 0.9375)
        ],
        dtype=torch.float64,
    )
    return (
        HandWorked(
            Problem(MultiScale(first=3.0), Linear(scale=0.5), OneStep()), q.expand(-1, -1, 2, -1), k, v, y
        ),
        HandWorked(
            Problem(MultiScale(first=2.0, last=4.0), Linear(scale=0.5), OneStep()),
            q.expand(-1, -1, 3, -1),
            k,
            v,
            even.transpose(0, 1)[None],
        ),
    )
