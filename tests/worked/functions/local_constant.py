from __future__ import annotations

import math

import torch

from tests.worked import HandWorked
from ttr.functions.local_constant import LocalConstant
from ttr.problem import Problem
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.weights.uniform import Uniform


def cases() -> tuple[HandWorked, ...]:
    # q_t.k_i = 6.75 | -2, -4 | 1.75, -0.25, -1.25: with e = exp(1 / sqrt(2)) the weights are as 1 | e^2 :
    # 1 | e^3 : e : 1.
    e = math.exp(0.5**0.5)
    two, three = 1 + e**2, 1 + e + e**3
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[3, 0.5], [0.5, -2], [0.5, 0.5]],
            [[2, 1.5], [-2, 1.5], [-0.5, -2]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            [
                [2, -3, 0.5],
                [(2 * e**2 - 2) / two, (4 - 3 * e**2) / two, (0.5 * e**2 + 3) / two],
                [
                    (2 * e**3 - 2 * e + 5) / three,
                    (-3 * e**3 + 4 * e - 0.5) / three,
                    (0.5 * e**3 + 3 * e - 4) / three,
                ],
            ],
        )
    )
    # Unit vectors: q (0.8, 0.6), (-0.6, 0.8), (0.8, 0.6), k (0.6, 0.8), (0.8, -0.6), (-0.8, -0.6), cosines
    # 0.96 | 0.28, -0.96 | 0.96, 0.28, -1. Two heads with the same q, k, v and the scales 1.3 and 2.2. Weights
    # exp(scale * cosine) brought to sum 1: t = 2: 0.833688874991, 0.166311125009 and 0.938658781212,
    # 0.061341218788; t = 3: 0.670526629435, 0.277012717786, 0.052460652779 and 0.808125751263,
    # 0.181039941676, 0.010834307061.
    qu, ku = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[0.4, 0.3], [-1.2, 1.6], [1.6, 1.2]],
            [[0.3, 0.4], [2, -1.5], [-0.8, -0.6]],
        )
    )
    yu = torch.tensor(
        [
            [[2, -3, 0.5], [2, -3, 0.5]],
            [
                [1.334755499965, -1.835822124938, 0.915777812522],
                [1.754635124847, -2.570611468482, 0.653353046971],
            ],
            [
                [1.049331087190, -0.929759343549, 0.956458856962],
                [1.308343154479, -1.705634640617, 0.903845472416],
            ],
        ],
        dtype=torch.float64,
    )[None]
    scale = {"function.scale": torch.tensor([1.3, 2.2], dtype=torch.float64)}
    return (
        HandWorked(Problem(Uniform(), LocalConstant(), ExactLocalFit()), q, k, v, y),
        HandWorked(
            Problem(Uniform(), LocalConstant(0.7, unit_norm=True, learned_scale=True), ExactLocalFit()),
            qu.expand(-1, -1, 2, -1),
            ku,
            v,
            yu,
            params=scale,
        ),
    )
