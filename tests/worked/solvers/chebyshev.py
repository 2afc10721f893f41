from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.chebyshev import Chebyshev
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.product import Product


def cases() -> tuple[HandWorked, ...]:
    # One iteration. The residual of n is T_{n+1}((theta - A) / delta) / T_{n+1}(theta / delta) with A = H +
    # lambda, theta = lambda + f / 2, delta = f / 2 and f = ||H||_F. T_2(u) = 2 u^2 - 1 gives x = 2 ((lambda +
    # f) q - H q) / (2 lambda^2 + 2 lambda f + f^2 / 4), which for lambda = f / 2 is 8/7 (1.5 q / f - H q /
    # f^2). gamma, from decays 0.5, 0.8, 0.25 and importances 0.5, 3, 0.25, is 0.5 | 0.4, 3 | 0.1, 0.75, 0.25.
    # H = [[0.125, 0.5], [., 2]], [[6.85, -1.85], [., 2.35]], [[1.775, -0.65], [., 1.15]]; f = 2.125, 7.7,
    # sqrt(5.318125); U = [[0.5, -0.75, 1], [2, -3, 4]], [[-8.6, 17.4, 14.3], [4.6, -8.4, -1.3]], [[-2.775,
    # 4.4125, 4.075], [3.025, -2.2875, -1.825]]. q / 2 is read with scale 0.5; for q itself H q = (1.75, 7),
    # (-24.25, 10.25), (2.1875, -2.625), x = (1.170538803757, 0.648541769649), (-0.200467436089,
    # 0.247692937860), (-0.098406429444, -0.922627661000), and mix 0.6, 0.3, 0.8 gives (1.502323282254,
    # 1.589125061789), (-2.160140230827, 1.474307881358), (0.021274856445, -1.138102128800).
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[0.5, 2], [1.5, -0.5], [-0.5, 1.5]],
            [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4]],
            [
                [1.964705882353, -2.947058823529, 3.929411764706],
                [12.679511119678, -24.985313109896, -16.403302773293],
                [-1.750898333127, 1.348641961847, 1.081865712537],
            ],
        )
    )
    controls = {
        "mix": torch.tensor([[[0.6], [0.3], [0.8]]], dtype=torch.float64),
        "log_decay": torch.tensor([[[0.5], [0.8], [0.25]]], dtype=torch.float64).log(),
        "log_importance": torch.tensor([[[0.5], [3], [0.25]]], dtype=torch.float64).log(),
    }
    return (
        HandWorked(
            Problem(
                Product((Geometric(), Importance())), Linear(scale=0.5), Chebyshev(iterations=1, ratio=0.5)
            ),
            q,
            k,
            v,
            y,
            controls,
        ),
    )
