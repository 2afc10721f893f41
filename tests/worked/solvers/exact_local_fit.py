from __future__ import annotations

import math

import torch

from tests.worked import HandWorked
from ttr.functions.local_linear import LocalLinear
from ttr.problem import Problem
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.product import Product


def cases() -> tuple[HandWorked, ...]:
    # q_t.k_i = 6.75 | -2, -4 | 1.75, -0.25, -1.25 with scale ln 2: kernel as 1 | 4 : 1 | 8 : 2 : 1. gamma,
    # from decays 0.5, 0.8, 0.25 and importances 0.5, 3, 0.25, is 0.5 | 0.4, 3 | 0.1, 0.75, 0.25. Their
    # products brought to sum 1: p = 1 | (8, 15) / 23 | (16, 30, 5) / 51. y = sum a_i v_i with a_i = p_i (1 -
    # (k_i - kbar).rho), (C + diag(ridge)) rho = kbar - q, kbar and C the mean and covariance under p. t = 2:
    # kbar = (-14/23, 1.5), C + ridge = diag(4369/1058, 2), rho = (-69/257, 7/4), a = (152, 105) / 257. t = 3:
    # kbar = (-61, 118) / 102, C + ridge = [[19636, -175], [., 16039]] / 5202, rho = (-594881, 432004) /
    # 2058243,
    #   a = (1084088, 632945, 341210) / 2058243.
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[3, 0.5], [0.5, -2], [0.5, 0.5]],
            [[2, 1.5], [-2, 1.5], [-0.5, -2]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            [
                [2, -3, 0.5],
                [94 / 257, -36 / 257, 391 / 257],
                [2608336 / 2058243, -891089 / 2058243, 1076039 / 2058243],
            ],
        )
    )
    controls = {
        "ridge": torch.tensor([[0.5, 2]], dtype=torch.float64),
        "log_decay": torch.tensor([[[0.5], [0.8], [0.25]]], dtype=torch.float64).log(),
        "log_importance": torch.tensor([[[0.5], [3], [0.25]]], dtype=torch.float64).log(),
    }
    return (
        HandWorked(
            Problem(Product((Geometric(), Importance())), LocalLinear(scale=math.log(2)), ExactLocalFit()),
            q,
            k,
            v,
            y,
            controls,
        ),
    )
