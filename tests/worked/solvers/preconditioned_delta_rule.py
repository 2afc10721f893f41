from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.preconditioned_delta_rule import PreconditionedDeltaRule
from ttr.weights.geometric import Geometric


def cases() -> tuple[HandWorked, ...]:
    # Decays 0.5, 0.8, 0.25, steps 0.5, 0.2, 0.6; of the preconditioner decays 0.5, 0.8, 0.4, steps 0.8, 0.4,
    # 0.6; bound 4, c = 0.3, eps = 0.25: A = (0.2, 3.2), (1.06, 2.66), (0.574, 2.414); r = ln(A + 0.25) - 0.3
    # = (-1.098507696, 0.938374231), (-0.029972863, 0.768153081), (-0.493584749, 0.679828753); P = 4^(-r / (1
    # + |r|)) = (2.066145401, 0.511140745), (1.041166838, 0.547573215), (1.581112177, 0.570618154). Written
    # keys P k = (1.0330727, 1.0222815), (1.5617503, -0.2737866), (-0.7905561, 0.8559272). Step times v - (D
    # S)^T k: (1, -1.5, 2); D S = [[0.8264582, -1.2396872, 1.6529163], [0.8178252, -1.2267378, 1.6356504]],
    # 0.2 (v - ...) = (-0.566154929, 1.049232393, 0.267690142), S = [[-0.0577344, 0.3989517, 2.0709815],
    # [0.9728308, -1.5140036, 1.5623604]]; (2.776782980, 0.070572181, -2.596207482), S = [[-2.2096363,
    # 0.0439467, 2.5701930], [2.6199319, -0.3180962, -1.8315746]].
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[0.5, 2], [1.5, -0.5], [-0.5, 1.5]],
            [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4]],
            [
                [2.566494934793, -3.84974240219, 5.132989869586],
                [1.059432497352, -2.112431144718, -1.544111796126],
                [-3.172340950292, 0.3290829053, 2.474122828715],
            ],
        )
    )
    decay, step, forget, add = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in ([0.5, 0.8, 0.25], [0.5, 0.2, 0.6], [0.5, 0.8, 0.4], [0.8, 0.4, 0.6])
    )
    controls = {
        "log_decay": decay.log(),
        "step_size": step,
        "precond_log_decay": forget.log(),
        "precond_step": add,
    }
    problem = Problem(
        Geometric(), Linear(scale=0.5), PreconditionedDeltaRule(bound=4.0, center=0.3, eps=0.25)
    )
    return (
        HandWorked(
            problem, q, k, v, y, controls, {"solver.center": torch.tensor([0.3], dtype=torch.float64)}
        ),
    )
