from __future__ import annotations

import math

import torch

from tests.worked import HandWorked, kernel_case
from ttr.functions.features.dijiang import Dijiang


def cases() -> tuple[HandWorked, ...]:
    # For K = 3 the rows of C are (1, 1, 1) / 3^(1/2), (1, 0, -1) / 2^(1/2) and (1, -2, 1) / 6^(1/2). With x =
    # (3^(1/2) a, 2^(1/2) b, 6^(1/2) c) the product x C is (a + b + c, a - 2 c, a - b + c), and with the
    # diagonal ln 2 (2, -0.5, 1) the softmax is that of powers of 2.
    whole_q, whole_k = (
        [(2, -1.5, 0.5), (-2, 2.5, 1.5), (0.5, -2, 2.5)],
        [(1.5, 0.5, -1), (-2, 3, 2), (0.5, 2, -2.5)],
    )

    def vector(a, b, c):
        return [math.sqrt(3) * a, math.sqrt(2) * b, math.sqrt(6) * c]

    def phi(a, b, c):
        powers = [2.0 ** (2 * (a + b + c)), 2.0 ** (-0.5 * (a - 2 * c)), 2.0 ** (a - b + c)]
        return [power / sum(powers) for power in powers]

    kernel = [
        [sum(x * y for x, y in zip(phi(*whole_q[t]), phi(*whole_k[i]))) for i in range(t + 1)]
        for t in range(3)
    ]
    diagonal = math.log(2) * torch.tensor([2, -0.5, 1], dtype=torch.float64)
    return (
        kernel_case(
            Dijiang(),
            [vector(*x) for x in whole_q],
            [vector(*x) for x in whole_k],
            kernel,
            {"diagonal": diagonal},
        ),
    )
