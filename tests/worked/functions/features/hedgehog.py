from __future__ import annotations

import math

import torch

from tests.worked import HandWorked, kernel_case
from ttr.functions.features.hedgehog import Hedgehog


def cases() -> tuple[HandWorked, ...]:
    # W and b are multiples of ln 2 / 2, so that exp(2 z) = 2^n with n = (x_1 + x_2 / 2 - 1, x_1 / 2 - x_2 +
    # 2): n = (3, -1), (-2, -1), (4, 2) for the queries, (2, 1), (-4, -2), (6, -2) for the keys. With c(n) =
    # 2^n + 2^-n phi(q).phi(k) = (c(n_1 + m_1) + c(n_2 + m_2)) / ((c(n_1) + c(n_2)) (c(m_1) + c(m_2))) for a
    # query with n and a key with m.
    q, k = [[2, 4], [-2, 2], [4, 2]], [[2, 2], [-4, 2], [4, 6]]
    n, m = [(3, -1), (-2, -1), (4, 2)], [(2, 1), (-4, -2), (6, -2)]

    def c(a, b=(0, 0)):
        return sum(2.0 ** (i + j) + 2.0 ** -(i + j) for i, j in zip(a, b))

    kernel = [[c(n[t], m[i]) / (c(n[t]) * c(m[i])) for i in range(t + 1)] for t in range(3)]
    weight, bias = (
        math.log(2) / 2 * torch.tensor(rows, dtype=torch.float64)[None]
        for rows in ([[1, 0.5], [0.5, -1]], [-1, 2])
    )
    return (kernel_case(Hedgehog(), q, k, kernel, {"weight": weight, "bias": bias}),)
