from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.conjugate_gradient import ConjugateGradient
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.product import Product


def cases() -> tuple[HandWorked, ...]:
    # Two iterations, damping 0.3, on A = H + diag(0.5, 2) and b = q / 2. gamma, from decays 0.5, 0.8, 0.25
    # and importances 0.5, 3, 0.25, is 0.5 | 0.4, 3 | 0.1, 0.75, 0.25. A = [[0.625, 0.5], [., 4]], [[7.35,
    # -1.85], [., 4.35]], [[2.275, -0.65], [., 3.15]]; U = [[0.5, -0.75, 1], [2, -3, 4]], [[-8.6, 17.4, 14.3],
    # [4.6, -8.4, -1.3]], [[-2.775, 4.4125, 4.075], [3.025, -2.2875, -1.825]]. b.b = 3.25, 3.25, 1.0625 and
    # b.A b = 11.125, 26.4375, 3.6171875: alpha_1 = b.b / (b.A b + 0.3) = 0.284463894967, 0.121552127162,
    # 0.271240526526; r = b - alpha_1 A b = (0.608862144420, -0.349015317287), (0.064983637214,
    # 0.133941093969), (-0.080574391703, -0.101515755884); beta = r.r / (b.b + 0.3) = 0.138739381017,
    # 0.006243123876, 0.012328573425; p = r + beta b, alpha_2 = r.r / (p.A p + 0.3) = 0.790069744204,
    # 0.058420316105, 0.048970191909; x = alpha_1 b + alpha_2 p = (0.875121240936, 0.315370080905),
    # (-0.179078914021, 0.129741733482), (0.064015321358, -0.276815505180); y = U^T x.
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[0.5, 2], [1.5, -0.5], [-0.5, 1.5]],
            [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4]],
            [
                [1.068300782278, -1.602451173416, 2.136601564555],
                [2.136890634597, -4.205803665214, -2.729492724028],
                [-1.015009419938, 0.915683073593, 0.766050731489],
            ],
        )
    )
    controls = {
        "ridge": torch.tensor([[0.5, 2]], dtype=torch.float64),
        "log_decay": torch.tensor([[[0.5], [0.8], [0.25]]], dtype=torch.float64).log(),
        "log_importance": torch.tensor([[[0.5], [3], [0.25]]], dtype=torch.float64).log(),
    }
    problem = Problem(
        Product((Geometric(), Importance())), Linear(scale=0.5), ConjugateGradient(iterations=2, damping=0.3)
    )
    return (HandWorked(problem, q, k, v, y, controls),)
