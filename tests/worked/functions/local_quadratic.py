from __future__ import annotations

import math

import torch

from tests.worked import HandWorked
from ttr.functions.local_quadratic import LocalQuadratic
from ttr.problem import Problem
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.weights.uniform import Uniform


def cases() -> tuple[HandWorked, ...]:
    # In the dual: the residuals of the fit are ridge a_i / p_i, and its monomials vanish at the query, so (G
    # + ridge P^-1) a is the same for all pairs, with sum a = 1 and G_ij = z_i.z_j + (z_i.z_j)^2. One pair
    # alone: y = v_1. y_t = sum a_i v_i.
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[3, 0.5], [0.5, -2], [0.5, 0.5]],
            [[2, 1.5], [-2, 1.5], [-0.5, -2]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            # q_t.k_i = 6.75 | -2, -4 | 1.75, -0.25, -1.25, scale ln 2: p = 1 | (4, 1) / 5 | (8, 2, 1) / 11.
            # ridge = 0.5. t = 2: z = (1.5, 3.5), (-2.5, 3.5): z_i.z_j = 14.5, 8.5, 18.5, G = [[224.75,
            # 80.75], [., 360.75]], ridge / p = (0.625, 2.5):
            #   a = (363.25 - 80.75, 225.375 - 80.75) / 427.125 = (2260, 1157) / 3417.
            # t = 3: z = (1.5, 1), (-2.5, 1), (-1, -2.5): z_i.z_j = [[3.25, -2.75, -4], [., 7.25, 0], [., .,
            # 7.25]],
            #   G = [[13.8125, 4.8125, 12], [., 59.8125, 0], [., ., 59.8125]], ridge / p = (0.6875, 2.75,
            #       5.5):
            #   the matrix is [[14.5, 4.8125, 12], [., 62.5625, 0], [., ., 65.3125]].
            #   a is as the row sums of its adjugate, which are as 110484, 19985 and 6985, over their sum
            #       137454.
            [
                [2, -3, 0.5],
                [2206 / 3417, -2152 / 3417, 4601 / 3417],
                [215923 / 137454, -510009 / 274908, 87257 / 137454],
            ],
        )
    )
    qu, ku, yu = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[0.4, 0.3], [-1.2, 1.6], [1.6, 1.2]],
            [[0.3, 0.4], [2, -1.5], [-0.8, -0.6]],
            # Unit vectors have the cosines 0.96 | 0.28, -0.96 | 0.96, 0.28, -1; weights exp(1.3 cosine)
            # brought to sum 1, ridge 0.5, displacements of the vectors as they are.
            # t = 2: p = (0.833688874991, 0.166311125009), z_i.z_j = 3.69, 8.52, 19.85,
            #   G + ridge / p = [[17.905844119178, 81.1104], [., 416.878913431293]],
            #   a = (1.231888898477, -0.231888898477).
            # t = 3: p = (0.670526629435, 0.277012717786, 0.052460652779), z_i.z_j = [[2.33, 1.64, 4.56], [.,
            # 7.45, 3.9], [., ., 9]],
            #   G + ridge / p = [[8.504582539739, 4.3296, 25.3536], [., 64.757471280725, 19.11], [., .,
            #       99.530952695352]],
            #   a = (1.236630917792, 0.055278271512, -0.291909189304).
            [
                [2, -3, 0.5],
                [2.927555593907, -4.623222289337, -0.079722246192],
                [0.903159346039, -3.342825072677, 1.951787030649],
            ],
        )
    )
    ridge = {"ridge": torch.tensor([0.5], dtype=torch.float64)}
    scale = {"function.scale": torch.tensor([1.3], dtype=torch.float64)}
    return (
        HandWorked(Problem(Uniform(), LocalQuadratic(scale=math.log(2)), ExactLocalFit()), q, k, v, y, ridge),
        HandWorked(
            Problem(Uniform(), LocalQuadratic(0.7, unit_norm=True, learned_scale=True), ExactLocalFit()),
            qu,
            ku,
            v,
            yu,
            ridge,
            scale,
        ),
    )
