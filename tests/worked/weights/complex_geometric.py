from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.complex_geometric import ComplexGeometric


def cases() -> tuple[HandWorked, ...]:
    q, k, v, by_head, by_channel = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[3, 2], [2, -0.5], [-2, 4]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            # Per head, decays 0.5, 0.8, 0.25 and phases (any), 60, -120 degrees. cos 60 = 1/2 and cos -120 =
            # -1/2; together they turn k_1 by -60: 1/2. Scores q_t.k_i / 2 = 6 | -2.5 * 0.8/2 = -1, -3.5 |
            # -1.25 * 0.2/2 = -0.125, -0.25/2 = -0.125, -4.5.
            [[12, -18, 3], [5, -11, -11], [-22.5, 2.125, 17.5625]],
            # Per channel, decays (0.5, 0.3), (0.8, 0.4), (0.25, 0.6), phases (60, 180), (-120, 120) at t = 2,
            # 3. Of k_1 remain (3 * 0.8/2, -2 * 0.4) = (1.2, -0.8) at t = 2, and angles (-60, 300) at t = 3:
            # (3 * 0.2/2, 2 * 0.24/2) = (0.3, 0.24); of k_2 at t = 3: (-2 * 0.25/2, 0.5 * 0.6/2) = (-0.25,
            # 0.15).
            # Scores 6 | (-3.6 - 1.6)/2 = -2.6, -3.5 | (0.15 - 0.48)/2 = -0.165, (-0.125 - 0.3)/2 = -0.2125,
            # -4.5.
            [[12, -18, 3], [1.8, -6.2, -11.8], [-22.405, 1.895, 17.28]],
        )
    )
    # Complex values 2-3i | -2+4i | 5-0.5i, decays 0.5, 0.8, 0.25, phases (any), 180, 90 degrees: the first
    # pair counts -0.8 at t = 2 and -0.2i at t = 3, the second 0.25i.
    q3, k3, v2, whole = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3, 0.5], [-3, 2, 0.5], [0.5, -2, 0.5]],
            [[3, 2, -2], [2, -0.5, -2], [-2, 4, -2]],
            [[2, -3], [-2, 4], [5, -0.5]],
            # Scores q_t.k_i / 2 = 5.5 | -3 * -0.8 = 2.4, -4 | -1.75 * -0.2i = 0.35i, 0.5 * 0.25i = 0.125i,
            # -5. 0.35i (2-3i) = 1.05 + 0.7i, 0.125i (-2+4i) = -0.5 - 0.25i, -5 (5-0.5i) = -25 + 2.5i.
            [[11, -16.5], [12.8, -23.2], [-24.45, 2.95]],
        )
    )
    sixth = torch.pi / 3
    decay, phase = (
        torch.tensor(x, dtype=torch.float64)[None]
        for x in ([[0.5], [0.8], [0.25]], [[0.7], [sixth], [-2 * sixth]])
    )
    decays = torch.tensor([[0.5, 0.3], [0.8, 0.4], [0.25, 0.6]], dtype=torch.float64)[None, :, None]
    phases = torch.tensor([[0.7, 0.2], [sixth, 3 * sixth], [-2 * sixth, 2 * sixth]], dtype=torch.float64)[
        None, :, None
    ]
    quarter = torch.tensor([[[0.7], [torch.pi], [torch.pi / 2]]], dtype=torch.float64)
    linear, solver = Linear(scale=0.5), OneStep()
    return (
        HandWorked(
            Problem(ComplexGeometric("head"), linear, solver),
            q,
            k,
            v,
            by_head,
            {"log_decay": decay.log(), "phase": phase},
        ),
        HandWorked(
            Problem(ComplexGeometric("channel"), linear, solver),
            q,
            k,
            v,
            by_channel,
            {"log_decay": decays.log(), "phase": phases},
        ),
        HandWorked(
            Problem(ComplexGeometric("head", "complex"), linear, solver),
            q3,
            k3,
            v2,
            whole,
            {"log_decay": decay.log(), "phase": quarter},
        ),
    )
