from __future__ import annotations

import math

import torch

from tests.worked import HandWorked, kernel_case
from ttr.functions.features.random_fourier import RandomFourier


def cases() -> tuple[HandWorked, ...]:
    # All vectors have whole norms: 5, 10, 13 and 5, 13, 10. With eps = 5 they become (0.3, 0.4), (6, -8) /
    # 15, (-5, 12) / 18 and (-0.4, 0.3), (12, 5) / 18, (8, 6) / 15. W = (2, -0.5) w / 0.8 has the rows (1.25,
    # 0.9375), (5, -0.15625), (-3, 1.5625). The kernel is c^2 times the sum of cos(W_r.(q^ - k^)), with c =
    # 0.6 or 3^(-1/2).
    q, k = [[3, 4], [6, -8], [-5, 12]], [[-4, 3], [12, 5], [8, 6]]
    q_unit, k_unit = (
        [(0.3, 0.4), (0.4, -8 / 15), (-5 / 18, 12 / 18)],
        [(-0.4, 0.3), (12 / 18, 5 / 18), (8 / 15, 0.4)],
    )
    rows = [(1.25, 0.9375), (5, -0.15625), (-3, 1.5625)]
    total = [
        [
            sum(
                math.cos(a * (q_unit[t][0] - k_unit[i][0]) + b * (q_unit[t][1] - k_unit[i][1]))
                for a, b in rows
            )
            for i in range(t + 1)
        ]
        for t in range(3)
    ]
    params = {
        "directions": torch.tensor([[[0.5, -1.5], [2, 0.25], [-1.2, -2.5]]], dtype=torch.float64),
        "sigma": torch.tensor([[2, -0.5]], dtype=torch.float64),
    }
    return tuple(
        kernel_case(
            RandomFourier(3, 0.8, amplitude, 5.0), q, k, [[square * s for s in row] for row in total], params
        )
        for amplitude, square in ((0.6, 0.36), (None, 1 / 3))
    )
