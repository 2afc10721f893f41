from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.delta_rule import DeltaRule
from ttr.solvers.one_step import OneStep
from ttr.weights.importance import Importance


def cases() -> tuple[HandWorked, ...]:
    q, k, v, summed, learned = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[0.5, 2], [1.5, -0.5], [-0.5, 1.5]],
            [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4]],
            # One step. Scores q_t.k_i / 2 = 3.5 | 1.25, -2.75 | -1.875, 0.875, -1.625, times the importances
            # 0.5, 3, 0.25: 1.75 | 0.625, -8.25 | -0.9375, 2.625, -0.40625. y_t is the sum of these times v_i.
            [[3.5, -5.25, 7], [17.75, -34.875, -22.25], [-9.15625, 13.515625, 5.75]],
            # Delta rule. The steps 0.5, 0.2, 0.6 become 0.25, 0.6, 0.15. Corrections step * (v - S^T k):
            # (0.5, -0.75, 1); 0.6 (v_2 - (-0.125, 0.1875, -0.25)) = (-1.125, 2.2875, 1.95); 0.15 (v_3 -
            # (3.0625, -5.49375, -0.175)) = (0.290625, 0.7490625, -0.57375). S = sum k correction^T, y = S^T q
            # / 2.
            [
                [1.75, -2.625, 3.5],
                [3.71875, -7.228125, -4.1125],
                [-2.394140625, 2.1905859375, 0.76359375],
            ],
        )
    )
    importance = torch.tensor([[[0.5], [3], [0.25]]], dtype=torch.float64).log()
    step = torch.tensor([[[0.5], [0.2], [0.6]]], dtype=torch.float64)
    return (
        HandWorked(
            Problem(Importance(), Linear(scale=0.5), OneStep()),
            q,
            k,
            v,
            summed,
            {"log_importance": importance},
        ),
        HandWorked(
            Problem(Importance(), Linear(scale=0.5), DeltaRule()),
            q,
            k,
            v,
            learned,
            {"log_importance": importance, "step_size": step},
        ),
    )
