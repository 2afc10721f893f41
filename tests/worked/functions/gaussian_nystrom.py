from __future__ import annotations

import math

import torch

from tests.worked import HandWorked
from ttr.functions.gaussian_nystrom import GaussianNystrom
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.uniform import Uniform


def cases() -> tuple[HandWorked, ...]:
    # Scale ln 4: kappa = 2^-||x - z||^2. Y = C_q W^+ C_k^T V, the three matrices by hand.
    # Landmarks q_1 and k_1, squared distance 2: W = [[1.25, 0.25], [0.25, 1.25]] with the rows' sum 1.5.
    # Balanced, its eigenvalues are 1 along (1, 1) and 2/3 along (1, -1), and 1 is its own inverse. From 2/3
    # the first step leads, with X = 4/9, to 2/3 (13 - 4/9 (15 - 4/9 (7 - 4/9))) / 4 = 5561/4374, and the
    # second, with X = 5561/6561, to z below.
    x = 5561 / 6561
    z = 5561 / 4374 * (13 - x * (15 - x * (7 - x))) / 4
    q, k, v, left, right, inverse = (
        torch.tensor(rows, dtype=torch.float64)
        for rows in (
            [[0.5, 0.5], [1.5, 0.5], [0.5, 1.5]],
            [[1.5, -0.5], [0.5, -0.5], [1.5, 1.5]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            [[1, 1 / 4], [1 / 2, 1 / 2], [1 / 2, 1 / 32]],
            [[1 / 4, 1], [1 / 2, 1 / 2], [1 / 4, 1 / 16]],
            [[(1 + z) / 3, (1 - z) / 3], [(1 - z) / 3, (1 + z) / 3]],
        )
    )
    # Landmarks q_1, q_2 and the mean (0.5, 1.5) of q_3 and q_4: W = N / 4 with N = [[5, 2, 2], [2, 5, 1], [2,
    # 1, 5]], largest row sum 9/4. Z_0 = 8 N / 81, and one step gives Z_1 = 2 Z_0 - Z_0 W Z_0 = 16 (81 N -
    # N^3) / 6561 with N^3 = [[253, 198, 198], [198, 208, 144], [198, 144, 208]].
    qn, kn, vn, left_n, right_n, inverse_n = (
        torch.tensor(rows, dtype=torch.float64)
        for rows in (
            [[0.5, 0.5], [1.5, 0.5], [-0.5, 0.5], [1.5, 2.5]],
            [[1.5, 1.5], [0.5, -0.5], [2.5, 0.5], [-0.5, 1.5]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4], [3, 2, -2.5]],
            [[1, 1 / 2, 1 / 2], [1 / 2, 1, 1 / 4], [1 / 2, 1 / 16, 1 / 4], [1 / 32, 1 / 16, 1 / 4]],
            [
                [1 / 4, 1 / 2, 1 / 2],
                [1 / 2, 1 / 4, 1 / 16],
                [1 / 16, 1 / 2, 1 / 32],
                [1 / 4, 1 / 32, 1 / 2],
            ],
            [[152, -36, -36], [-36, 197, -63], [-36, -63, 197]],
        )
    )
    y, yn = left @ inverse @ right.mT @ v, left_n @ (16 / 6561 * inverse_n) @ right_n.mT @ vn
    first = GaussianNystrom(landmarks=2, ridge=0.25, steps=2, scale=math.log(4))
    second = GaussianNystrom(
        landmarks=3,
        landmarks_of="queries",
        pooled=True,
        inverse="newton",
        ridge=0.25,
        steps=1,
        scale=math.log(4),
    )
    return tuple(
        HandWorked(Problem(Uniform(), function, OneStep()), *(x[None, :, None] for x in tensors))
        for function, tensors in ((first, (q, k, v, y)), (second, (qn, kn, vn, yn)))
    )
