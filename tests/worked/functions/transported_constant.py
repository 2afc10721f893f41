from __future__ import annotations

import math

import torch

from tests.worked import HandWorked
from ttr.functions.transported_constant import TransportedConstant
from ttr.problem import Problem
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.weights.uniform import Uniform


def cases() -> tuple[HandWorked, ...]:
    # Scale ln 2, so the kernel is 2^(q.k). t = 1: y = v_1; w_1 acts on no key.
    # t = 2: w_2.k_1 = 1, k_1 becomes (2, 1.5) - 0.2 (2, -2) = (1.6, 1.9); q_2.k = -3, -4; weights as 2 : 1. t
    # = 3: w_3.k = 3.65, 1.25, times 0.4: k_1 becomes (1.6, 1.9) - 1.46 (0.5, 1.5) = (0.87, -0.29), k_2 (-2,
    # 1.5) - 0.5 (0.5, 1.5)
    #   = (-2.25, 0.75); q_3.k = 0.29, -0.75, -1.25; weights as a : b : 1 with a = 2^1.54, b = 2^0.5.
    a, b = 2**1.54, 2**0.5
    q, k, v, w, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[3, 0.5], [0.5, -2], [0.5, 0.5]],
            [[2, 1.5], [-2, 1.5], [-0.5, -2]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            [[-0.5, 3], [2, -2], [0.5, 1.5]],
            [
                [2, -3, 0.5],
                [2 / 3, -2 / 3, 4 / 3],
                [
                    (2 * a - 2 * b + 5) / (a + b + 1),
                    (-3 * a + 4 * b - 0.5) / (a + b + 1),
                    (0.5 * a + 3 * b - 4) / (a + b + 1),
                ],
            ],
        )
    )
    controls = {
        "transport_key": w,
        "step_size": torch.tensor([[[0.7], [0.2], [0.4]]], dtype=torch.float64),
    }
    return (
        HandWorked(
            Problem(Uniform(), TransportedConstant(scale=math.log(2)), ExactLocalFit()), q, k, v, y, controls
        ),
    )
