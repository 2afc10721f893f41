from __future__ import annotations

import math

import torch

from tests.worked import HandWorked, kernel_case
from ttr.functions.features.elu_plus_one import EluPlusOne
from ttr.functions.features.hedgehog import Hedgehog
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.uniform import Uniform


def cases() -> tuple[HandWorked, ...]:
    r = 0.5**0.5
    q, k, v, plain, ratio, floored, absolute = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[3, 2], [2, -0.5], [-2, 4]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            # The scores q_t.k_i = 12 | -5, -7 | -2.5, 2, -9 times the default scale r = 1 / sqrt(2),
            # times v_i.
            [[24 * r, -36 * r, 6 * r], [4 * r, -13 * r, -23.5 * r], [-54 * r, 20 * r, 40.75 * r]],
            # Scores phi(q_t).phi(k_i) / 2 with elu + 1: 12 | 2 e^-3 + 4.5 = 4.599574136736, 1.5 (e^-3 +
            # e^-0.5) = 0.984476592121 | 3 + 1.5 e^-2 = 3.203002924855, 2.25 + 0.5 e^-2.5 = 2.291042499312,
            # 3.25 e^-2 = 0.439839670519. Their sums times v_i, divided by their sums plus eps = 0.25: 12.25 |
            # 5.834050728856 | 6.183885094686.
            [
                [24 / 12.25, -36 / 12.25, 6 / 12.25],
                [1.239309602412, -1.690217740643, 0.900440721015],
                [0.650581170588, -0.107498538928, 1.085930636722],
            ],
            # Plain scores over 2: 6 | -2.5, -3.5 | -1.25, 1, -4.5, with sums 6, -6, -4.75. With a floor of 5
            # the divisors are 6, 5, 5, and 6, 6, 5 with absolute values.
            [[2, -3, 0.5], [0.4, -1.3, -2.35], [-5.4, 2, 4.075]],
            [[2, -3, 0.5], [2 / 6, -6.5 / 6, -11.75 / 6], [-5.4, 2, 4.075]],
        )
    )
    return (
        HandWorked(Problem(Uniform(), Linear(), OneStep()), q, k, v, plain),
        HandWorked(
            Problem(Uniform(), Linear(EluPlusOne(), normalized=True, scale=0.5, eps=0.25), OneStep()),
            q,
            k,
            v,
            ratio,
        ),
        HandWorked(
            Problem(Uniform(), Linear(normalized=True, scale=0.5, floor=5.0), OneStep()), q, k, v, floored
        ),
        HandWorked(
            Problem(Uniform(), Linear(normalized=True, scale=0.5, floor=5.0, absolute=True), OneStep()),
            q,
            k,
            v,
            absolute,
        ),
        _untied(),
    )


def _untied() -> HandWorked:
    # Hedgehog with W and b in multiples of ln 2 / 2, so that exp(2 z) = 2^n: n = (x_1 + x_2 / 2 - 1, x_1 / 2
    # - x_2 + 2) for queries, (x_1 / 2 - x_2 / 2 + 3, 2 x_1 + x_2 / 2 - 2) for keys. With c(n) = 2^n + 2^-n
    # the kernel is (c(n_1 + m_1) + c(n_2 + m_2)) / ((c(n_1) + c(n_2)) (c(m_1) + c(m_2))) for a query with n
    # and a key with m.
    n, m = [(3, -1), (-2, -1), (4, 2)], [(3, 3), (3, -7), (2, 4)]

    def c(a, b=(0, 0)):
        return sum(2.0 ** (i + j) + 2.0 ** -(i + j) for i, j in zip(a, b))

    kernel = [[c(n[t], m[i]) / (c(n[t]) * c(m[i])) for i in range(t + 1)] for t in range(3)]
    multiples = {
        "query.weight": [[1, 0.5], [0.5, -1]],
        "query.bias": [-1, 2],
        "key.weight": [[0.5, -0.5], [2, 0.5]],
        "key.bias": [3, -2],
    }
    params = {
        name: math.log(2) / 2 * torch.tensor(rows, dtype=torch.float64)[None]
        for name, rows in multiples.items()
    }
    return kernel_case(
        Hedgehog(), [[2, 4], [-2, 2], [4, 2]], [[2, 2], [-2, -2], [2, 4]], kernel, params, tied=False
    )
