from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.factored_geometric import FactoredGeometric


def cases() -> tuple[HandWorked, ...]:
    # Rates 2 and 3 make the decays 0.5, 0.8, 0.4 to (0.25, 0.125), (0.64, 0.512), (0.16, 0.064). k_1 becomes
    # (1.92, 1.024) at t = 2, (0.3072, 0.065536) at t = 3, and k_2 (0.32, -0.032) at t = 3. Scores with q_t /
    # 2: 6 | (-5.76 + 2.048) / 2 = -1.856, -3.5 | 0.0768 - 0.065536 = 0.011264, 0.08 + 0.032 = 0.112, -4.5.
    # y_t is the sum of these times v_i.
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[3, 2], [2, -0.5], [-2, 4]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            [[12, -18, 3], [3.288, -8.432, -11.428], [-22.701472, 2.664208, 18.341632]],
        )
    )
    decay = torch.tensor([[[0.5], [0.8], [0.4]]], dtype=torch.float64).log()
    params = {"weights.rate": torch.tensor([[2.0, 3.0]], dtype=torch.float64).log()}
    return (
        HandWorked(
            Problem(FactoredGeometric(), Linear(scale=0.5), OneStep()),
            q,
            k,
            v,
            y,
            {"log_decay": decay},
            params,
        ),
    )
