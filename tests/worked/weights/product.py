from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.multi_scale import MultiScale
from ttr.weights.product import Product
from ttr.weights.window import Window


def cases() -> tuple[HandWorked, ...]:
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[3, 2], [2, -0.5], [-2, 4]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            # Retentions multiply: 0.875 for the head times (0.5, 0.3), (0.8, 0.4), (0.25, 0.6) for the
            # channels; importances 0.5, 3, 0.25. k_1 counts 0.5 * (3, 2), then 0.5 * 0.875 * (2.4, 0.8), then
            # 0.5 * 0.875^2 * (0.6, 0.48); k_2 counts 3 * (2, -0.5), then 3 * 0.875 * (0.5, -0.3); k_3 counts
            # 0.25 * (-2, 4). Scores with q_t / 2: 3 | 0.4375 * -2.8 = -1.225, 3 * -3.5 = -10.5 | 0.3828125 *
            # -0.33 = -0.126328125, 2.625 * 0.425 = 1.115625, 0.25 * -4.5 = -1.125.
            [[6, -9, 1.5], [18.55, -38.325, -32.1125], [-8.10890625, 5.403984375, 7.7837109375]],
        )
    )
    many = Product((MultiScale(first=3.0), Geometric("channel"), Importance()))
    decay = torch.tensor([[0.5, 0.3], [0.8, 0.4], [0.25, 0.6]], dtype=torch.float64).log()[None, :, None]
    controls = {
        "log_decay": decay,
        "log_importance": torch.tensor([[[0.5], [3], [0.25]]], dtype=torch.float64).log(),
    }

    q4, k4, v4, y4 = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2], [3, 0.5]],
            [[3, 2], [2, -0.5], [-2, 4], [0.5, 3]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4], [3, 2, -2.5]],
            # The narrower window of 2 holds, with decays 0.5, 0.8, 0.25, 0.4: 6 | -2.5 * 0.8 = -2, -3.5 |
            # 1 * 0.25, -4.5 | -2 * 0.4 = -0.8, 1.5.
            [[12, -18, 3], [3, -8, -11.5], [-23, 3.25, 18.75], [0.5, 3.4, -0.55]],
        )
    )
    narrow = Product((Window(3), Geometric("head"), Window(2)))
    decay4 = {"log_decay": torch.tensor([[[0.5], [0.8], [0.25], [0.4]]], dtype=torch.float64).log()}
    return (
        HandWorked(Problem(many, Linear(scale=0.5), OneStep()), q, k, v, y, controls),
        HandWorked(Problem(narrow, Linear(scale=0.5), OneStep()), q4, k4, v4, y4, decay4),
    )
