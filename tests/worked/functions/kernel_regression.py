from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.kernel_regression import KernelRegression
from ttr.problem import Problem
from ttr.solvers.exact_ridge import ExactRidge
from ttr.weights.importance import Importance


def cases() -> tuple[HandWorked, ...]:
    # Pairs count 0.5, 3, 0.25 and the ridge is 0.7, so 1.4, 7/30, 2.8 are added to the diagonal. y_t = sum_i
    # w_i v_i with (kappa(K, K) + ridge Gamma^-1) w = kappa(K, q_t), and k_i.k_j = [[4.25, -0.25, 2.75], [.,
    # 2.5, -1.5], [., ., 2.5]].
    q, k, v, exponential, gaussian = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2.2, 1.5], [-1.5, 1.2], [0.25, -1.2]],
            [[0.5, 2], [1.5, -0.5], [-0.5, 1.5]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            # exp(0.4 q.k): kappa(K, K) = [[5.473947391727, 0.904837418036, 3.004166023946], [.,
            # 2.718281828459, 0.548811636094],
            #   [., ., 2.718281828459]].
            # t = 1: kappa(K, q) = (5.155169512235), w = (0.749957661654).
            # t = 2: kappa(K, q) = (1.934792334402, 0.319819021816), w = (0.278440386839, 0.022996135130).
            # t = 3: kappa(K, q) = (0.402524224034, 1.476980793883, 0.463013068311), w = (-0.029128185383,
            # 0.500023853942, 0.050033701140).
            [
                [1.499915323309, -2.249872984963, 0.374978830827],
                [0.510888503419, -0.743336619999, 0.208208598809],
                [-0.808135572952, 2.062463121350, 1.285372664577],
            ],
            # exp(-0.15 ||q - k||^2): kappa(K, K) = [[1.000000000000, 0.337058086494, 0.829029118180],
            #   [., 1.000000000000, 0.301194211912], [., ., 1.000000000000]].
            # t = 1: kappa(K, q) = (0.624377578411), w = (0.260157324338).
            # t = 2: kappa(K, q) = (0.498575622991, 0.168048945458), w = (0.196131702580, 0.082655001961).
            # t = 3: kappa(K, q) = (0.213231894268, 0.735007188166, 0.307932400190), w = (-0.006196982721,
            # 0.588925132150, 0.035707641647).
            [
                [0.520314648676, -0.780471973014, 0.130078662169],
                [0.226953401237, -0.257775099894, 0.346030857174],
                [-1.011706021508, 2.356437655939, 1.620846338504],
            ],
        )
    )
    controls = {
        "ridge": torch.tensor(0.7, dtype=torch.float64),
        "log_importance": torch.tensor([[[0.5], [3], [0.25]]], dtype=torch.float64).log(),
    }
    return (
        HandWorked(
            Problem(Importance(), KernelRegression(scale=0.4), ExactRidge()), q, k, v, exponential, controls
        ),
        HandWorked(
            Problem(Importance(), KernelRegression("gaussian", scale=0.3), ExactRidge()),
            q,
            k,
            v,
            gaussian,
            controls,
        ),
    )
