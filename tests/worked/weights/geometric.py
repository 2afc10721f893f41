from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.geometric import Geometric


def cases() -> tuple[HandWorked, ...]:
    q, k, v, by_head, by_channel = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[3, 2], [2, -0.5], [-2, 4]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            # Per head, decays 0.5, 0.8, 0.001: the scores q_t.k_i / 2 = 6 | -2.5, -3.5 | -1.25, 1, -4.5 of
            # old pairs shrink, those of the newest (6, -3.5, -4.5) do not: 6 | -2.5 * 0.8 = -2, -3.5 | -1.25
            # * 0.8 * 0.001 = -0.001, 0.001, -4.5.
            [[12, -18, 3], [3, -8, -11.5], [-22.504, 2.257, 18.0025]],
            # Per channel, decays (0.5, 0.3), (0.8, 0.4), (0.25, 0.6). k_1 becomes (2.4, 0.8) at t = 2, (0.6,
            # 0.48) at t = 3, and k_2 becomes (0.5, -0.3) at t = 3. Scores 6 | (-7.2 + 1.6) / 2 = -2.8, -3.5 |
            # (0.3 - 0.96) / 2 = -0.33, (0.25 + 0.6) / 2 = 0.425, -4.5.
            [[12, -18, 3], [1.4, -5.6, -11.9], [-24.01, 4.94, 19.11]],
        )
    )
    head = torch.tensor([[[0.5], [0.8], [0.001]]], dtype=torch.float64).log()
    channel = torch.tensor([[0.5, 0.3], [0.8, 0.4], [0.25, 0.6]], dtype=torch.float64).log()[None, :, None]
    return (
        HandWorked(
            Problem(Geometric("head"), Linear(scale=0.5), OneStep()), q, k, v, by_head, {"log_decay": head}
        ),
        HandWorked(
            Problem(Geometric("channel"), Linear(scale=0.5), OneStep()),
            q,
            k,
            v,
            by_channel,
            {"log_decay": channel},
        ),
    )
