from __future__ import annotations

import math

import torch

from tests.worked import HandWorked
from ttr.functions.local_linear import LocalLinear
from ttr.problem import Problem
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.weights.uniform import Uniform


def cases() -> tuple[HandWorked, ...]:
    # The fit's value at q is y = sum a_i v_i with a_i = p_i (1 - (k_i - kbar).rho) and (C + diag(ridge)) rho
    # = kbar - q, where p are the weights brought to sum 1, kbar and C the mean and covariance of the keys
    # under p. One pair alone: y = v_1.
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[3, 0.5], [0.5, -2], [0.5, 0.5]],
            [[2, 1.5], [-2, 1.5], [-0.5, -2]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            # q_t.k_i = 6.75 | -2, -4 | 1.75, -0.25, -1.25, scale ln 2: weights as 1 | 4 : 1 | 8 : 2 : 1,
            # ridge (0.5, 2). t = 2: kbar = (1.2, 1.5), C + ridge = diag(3.06, 2), rho = (35/153, 7/4), a =
            # (100, 53) / 153.
            # t = 3: kbar = (23/22, 13/11), C + ridge = [[742, 119], [119, 729]] / 242, rho = (6963, 9702) /
            # 47887, a = (27748, 12001, 8138) / 47887.
            [
                [2, -3, 0.5],
                [94 / 153, -88 / 153, 209 / 153],
                [72184 / 47887, -39309 / 47887, 17325 / 47887],
            ],
        )
    )
    qu, ku, yu = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[0.4, 0.3], [-1.2, 1.6], [1.6, 1.2]],
            [[0.3, 0.4], [2, -1.5], [-0.8, -0.6]],
            # Unit vectors have the cosines 0.96 | 0.28, -0.96 | 0.96, 0.28, -1; weights exp(1.3 cosine)
            # brought to sum 1, ridge (0.5, 2), displacements of the vectors as they are.
            # t = 2: p = (0.833688874991, 0.166311125009), kbar = (0.582728912515, 0.084008862483),
            #   C + ridge = [[0.900703513304, -0.447845103104], [., 2.500532762292]], rho = (1.841834490062,
            #       -0.276394931047),
            #   a = (1.340636914688, -0.340636914688).
            # t = 3: p = (0.670526629435, 0.277012717786, 0.052460652779), kbar = (0.713214902180,
            # -0.178784816573),
            #   C + ridge = [[1.193297588881, -0.597881849030], [., 2.717484700092]], rho = (-1.120912724194,
            #       -0.753990699063),
            #   a = (0.652570279515, 0.400612975156, -0.053183254671).
            [
                [2, -3, 0.5],
                [3.362547658750, -5.384458402813, -0.351592286719],
                [0.237998335364, -0.328667310585, 1.740857083908],
            ],
        )
    )
    # Rank 1 with P = (2, -1.5), ridge 0.5 and the kernel of the first case: P k = 1.75, -6.25, 2 and P q = .,
    # 4, 0.25. t = 2: mean 0.15, C + ridge = 10.74, rho = -385/1074, a = (676, -139) / 537.
    # t = 3: mean 7/22, C + ridge = 9769/968, rho = 66/9769, a = (77396, 20405, 9658) / 107459.
    yr = torch.tensor(
        [
            [2, -3, 0.5],
            [1630 / 537, -2584 / 537, -79 / 537],
            [162272 / 107459, -155397 / 107459, 61281 / 107459],
        ],
        dtype=torch.float64,
    )[None, :, None]
    projection = {"function.projection": torch.tensor([[[2, -1.5]]], dtype=torch.float64)}
    ridge = {"ridge": torch.tensor([[0.5, 2]], dtype=torch.float64)}
    scale = {"function.scale": torch.tensor([1.3], dtype=torch.float64)}
    return (
        HandWorked(Problem(Uniform(), LocalLinear(scale=math.log(2)), ExactLocalFit()), q, k, v, y, ridge),
        HandWorked(
            Problem(Uniform(), LocalLinear(0.7, unit_norm=True, learned_scale=True), ExactLocalFit()),
            qu,
            ku,
            v,
            yu,
            ridge,
            scale,
        ),
        HandWorked(
            Problem(Uniform(), LocalLinear(math.log(2), rank=1), ExactLocalFit()),
            q,
            k,
            v,
            yr,
            {"ridge": ridge["ridge"][:, :1]},
            projection,
        ),
    )
