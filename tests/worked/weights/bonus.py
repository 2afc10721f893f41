from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.bonus import Bonus


def cases() -> tuple[HandWorked, ...]:
    # u = (2, 0.5): own scores q.(u k) / 2 = (12 + 3) / 2 = 7.5; (-12 - 0.5) / 2 = -6.25; (-2 - 4) / 2 = -3.
    # Decays (0.5, 0.3), (0.8, 0.4), the last without effect. Old pairs: k_1 as written at t = 2, score (-9 +
    # 4) / 2 = -2.5; at t = 3 k_1 has been decayed by the second token alone, (2.4, 0.8), score (1.2 - 1.6) /
    # 2 = -0.2; k_2 as written, score (1 + 1) / 2. y_1 = 7.5 v_1, y_2 = -2.5 v_1 - 6.25 v_2, y_3 = -0.2 v_1 +
    # v_2 - 3 v_3.
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[3, 2], [2, -0.5], [-2, 4]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            [[15, -22.5, 3.75], [7.5, -17.5, -20], [-17.4, 6.1, 14.9]],
        )
    )
    decay = torch.tensor([[0.5, 0.3], [0.8, 0.4], [0.25, 0.6]], dtype=torch.float64).log()[None, :, None]
    return (
        HandWorked(
            Problem(Bonus(), Linear(scale=0.5), OneStep()),
            q,
            k,
            v,
            y,
            {"log_decay": decay},
            {"weights.bonus": torch.tensor([[2, 0.5]], dtype=torch.float64)},
        ),
    )
