from __future__ import annotations

import math

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.layerwise_decay import LayerwiseDecay


def cases() -> tuple[HandWorked, ...]:
    # Three heads with the same q, k, v: 2^-1, 2^-2, 2^-3, times 1 - 2 / 4.00001 + 0.00001 = 0.50001125 in
    # layer 2 of 5. The scores q_t.k_i / 2 are: 6 at t = 1; -2.5, -3.5 at t = 2; -1.25, 1, -4.5 at t = 3.
    # With a = exp(-m): y_1 = 6 v_1, y_2 = -2.5 a v_1 - 3.5 v_2, y_3 = -1.25 a^2 v_1 + a v_2 - 4.5 v_3.
    q, k, v = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[3, 2], [2, -0.5], [-2, 4]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
        )
    )
    depth = (2 + 1e-5) / (4 + 1e-5) + 1e-5
    y = torch.tensor(
        [
            [
                [12, -18, 3],
                [7 - 5 * a, 7.5 * a - 14, -1.25 * a - 10.5],
                [-22.5 - 2 * a - 2.5 * a * a, 2.25 + 4 * a + 3.75 * a * a, 18 + 3 * a - 0.625 * a * a],
            ]
            for a in (math.exp(-depth / slope) for slope in (2, 4, 8))
        ],
        dtype=torch.float64,
    )
    return (
        HandWorked(
            Problem(LayerwiseDecay(exponent=3.0, layer=2, layers=5), Linear(scale=0.5), OneStep()),
            q.expand(-1, -1, 3, -1),
            k,
            v,
            y.transpose(0, 1)[None],
        ),
    )
