from __future__ import annotations

import math

import torch

from tests.worked import HandWorked, kernel_case
from ttr.functions.features.positive_random import PositiveRandom


def cases() -> tuple[HandWorked, ...]:
    # With K = 2 the kernel is the mean over the rows of W of exp(W_r.(q + k) / 2^(1/4) - (||q||^2 +
    # ||k||^2) / 8^(1/2)).
    q, k = [[0.5, 0.75], [-0.25, 0.5], [0.6, -0.4]], [[0.3, -0.5], [0.8, 0.2], [-0.7, 0.4]]
    rows = [(0.5, -1.5), (2, 0.25), (-1.2, 0.8)]
    kernel = [
        [
            sum(
                math.exp(
                    (a * (q[t][0] + k[i][0]) + b * (q[t][1] + k[i][1])) / 2**0.25
                    - sum(x * x for x in q[t] + k[i]) / math.sqrt(8)
                )
                for a, b in rows
            )
            / 3
            for i in range(t + 1)
        ]
        for t in range(3)
    ]
    # The first key is 2^(1/4) (6, 5), which is the second row: (6^2 + 5^2) / 2 = 30.5 is held at 30. The
    # others are 2^(1/4) times (-1.5, 0.5) and (0.75, -2), the queries (-0.25, 0.5), (0.5, -0.75), (0.25,
    # 0.75), the first row (0.5, -1.5).
    long = [(0.5, -1.5), (6, 5)]
    near, others = [(6, 5), (-1.5, 0.5), (0.75, -2)], [(-0.25, 0.5), (0.5, -0.75), (0.25, 0.75)]
    held = [
        [
            sum(
                math.exp(a * x + b * y - (x * x + y * y) / 2 + min(30, a * u + b * w - (u * u + w * w) / 2))
                for a, b in long
            )
            / 2
            for u, w in near[: t + 1]
        ]
        for t, (x, y) in enumerate(others)
    ]
    near, others = ([[2**0.25 * x for x in row] for row in rows] for rows in (near, others))
    return (
        kernel_case(
            PositiveRandom(number=3), q, k, kernel, {"directions": torch.tensor(rows, dtype=torch.float64)}
        ),
        kernel_case(
            PositiveRandom(number=2),
            others,
            near,
            held,
            {"directions": torch.tensor(long, dtype=torch.float64)},
        ),
    )
