from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.exact_ridge import ExactRidge
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.product import Product
from ttr.weights.window import Window


def cases() -> tuple[HandWorked, ...]:
    q, k, v = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[0.5, 2], [1.5, -0.5], [-0.5, 1.5]],
            [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4]],
        )
    )
    # gamma, from decays 0.5, 0.8, 0.25 and importances 0.5, 3, 0.25, is 0.5 | 0.4, 3 | 0.1, 0.75, 0.25. H =
    # [[0.125, 0.5], [., 2]], [[6.85, -1.85], [., 2.35]], [[1.775, -0.65], [., 1.15]]; U = [[0.5, -0.75, 1],
    # [2, -3, 4]], [[-8.6, 17.4, 14.3], [4.6, -8.4, -1.3]], [[-2.775, 4.4125, 4.075], [3.025, -2.2875,
    # -1.825]]. Two heads with the same q, k, v and the ridges (0.5, 2), (4, 0.25): det(H + diag(ridge)) =
    # 2.25, 28.55, 6.74375 and 9.03125, 24.7875, 7.6625. y = U^T adj(H + diag(ridge)) q / (2 det).
    y = torch.tensor(
        [
            [
                [
                    [2.5 / 2.25, -3.75 / 2.25, 5 / 2.25],
                    [12.125 / 9.03125, -18.1875 / 9.03125, 24.25 / 9.03125],
                ],
                [
                    [61.25 / 28.55, -119.775 / 28.55, -72.8 / 28.55],
                    [54.775 / 24.7875, -103.5 / 24.7875, -39.8125 / 24.7875],
                ],
                [
                    [-6.771875 / 6.74375, 5.4390625 / 6.74375, 4.415625 / 6.74375],
                    [-16.1453125 / 7.6625, 11.51484375 / 7.6625, 9.0203125 / 7.6625],
                ],
            ]
        ],
        dtype=torch.float64,
    )
    controls = {
        "ridge": torch.tensor([[0.5, 2], [4, 0.25]], dtype=torch.float64),
        "log_decay": torch.tensor([[[0.5], [0.8], [0.25]]], dtype=torch.float64).log().expand(-1, -1, 2),
        "log_importance": torch.tensor([[[0.5], [3], [0.25]]], dtype=torch.float64).log().expand(-1, -1, 2),
    }

    q4, k4, v4, y4 = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2], [3, 0.5]],
            [[0.5, 2], [1.5, -0.5], [-0.5, 1.5], [2, 0.5]],
            [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4], [3, 2, -2.5]],
            # The two newest pairs, ridge 0.5. H = [[0.25, 1], [., 4]], [[2.5, 0.25], [., 4.25]], [[2.5,
            # -1.5], [., 2.5]], [[4.25, 0.25], [., 2.5]], det(H + 0.5) = 2.375, 14.1875, 6.75, 14.1875; U =
            # [[1, -1.5, 2], [4, -6, 8]], [[-2, 4.5, 6.5], [5, -8, 6.5]], [[-5.5, 6.25, 6.5], [8.5, -2.75,
            # -7.5]], [[3.5, 4.25, -3], [9, 0.25, -7.25]].
            [
                [3.5 / 2.375, -5.25 / 2.375, 7 / 2.375],
                [31.625 / 14.1875, -60.1875 / 14.1875, -26 / 14.1875],
                [-18.1875 / 6.75, 0.375, 14.8125 / 6.75],
                [22.84375 / 14.1875, 19.0625 / 14.1875, -19.203125 / 14.1875],
            ],
        )
    )
    ridge = {"ridge": torch.tensor([0.5], dtype=torch.float64)}
    return (
        HandWorked(
            Problem(Product((Geometric(), Importance())), Linear(scale=0.5), ExactRidge()),
            q.expand(-1, -1, 2, -1),
            k,
            v,
            y,
            controls,
        ),
        HandWorked(Problem(Window(2), Linear(scale=0.5), ExactRidge()), q4, k4, v4, y4, ridge),
    )
