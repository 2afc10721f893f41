from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.mlp import Mlp
from ttr.problem import Problem
from ttr.solvers.gradient_descent import GradientDescent
from ttr.weights.geometric import Geometric
from ttr.weights.uniform import Uniform


def cases() -> tuple[HandWorked, ...]:
    q, k, v, corrected, deep = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2], [3, 0.5]],
            [[0.5, 2], [1.5, -0.5], [-0.5, 1.5], [2, 0.5]],
            [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4], [3, 2, -2]],
            # One matrix with bias, x + LN, eps 0.25; steps 0.5, 0.2, 0.6, 0.3, read steps 0.8, 0.6, 0.7, 0.5,
            # boundary after two tokens. k_1: z = (2.05, 2.675, 0.4), mean 1.708333, deviation sqrt(0.919306 +
            # 0.25) = 1.081345, prediction (0.5, 2, -) + LN z, so the slope through LN is g =
            # (-4.481355614923, 4.766946837019, -0.285591222096). k_2: z = (0.675, -1.325, 3.65) and g =
            # (2.887296524782, -1.944663095749, -0.942633429033). W_1 = W - 0.8 * 0.5 k_1 g_1^T, b_1 = b - 0.8
            # * 0.5 g_1; W_2 = W - 0.6 (0.5 k_1 g_1^T + 0.2 k_2 g_2^T), kept; tokens 3 and 4 likewise from
            # W_2.
            [
                [2.8533920126, 0.0201923523452, 3.04967969794],
                [-2.08162187851, 0.93224161667, 1.42068442304],
                [0.101770787504, -2.13549426723, 4.67130833791],
                [3.63499755128, -2.80807886644, 3.951066496],
            ],
            # Two matrices, GELU between; steps 1/16, 1/40, 3/40, 3/80, decays 0.5, 0.8, 0.25, 0.6, momenta
            # 0.4, 0.3, 0.7, 0.2. k_1: z = (0.75, 2.625), gelu (0.579960555166, 2.614096088304), error
            # (-3.743300537544, 4.597883039746, -2.519818507310), and back through W_2 and the slope of GELU
            # (-7.101367899533, 5.616513688817). k_2: z = (0.625, -1.875), gelu (0.458721149958,
            # -0.057000964364), error (2.320833461465, -4.223389135038, -2.466634909360), back
            # (0.114447105767, 0.551903169324). W_1 of the network: Z = -k_1 back_1^T / 16, 0.5 W + Z; then Z
            # = 0.3 Z - k_2 back_2^T / 40, 0.8 W + Z, the new boundary.
            [
                [1.70049667755, -1.39491817302, 2.66168253367],
                [0.624345405377, -0.789837422408, 1.01764605928],
                [-0.0233962966801, -0.0670781426787, 0.101635625273],
                [0.0272481436845, 0.0337946989952, -0.053512912242],
            ],
        )
    )
    gates = {
        "step_size": [0.5, 0.2, 0.6, 0.3],
        "read_step": [0.8, 0.6, 0.7, 0.5],
        "momentum": [0.4, 0.3, 0.7, 0.2],
        "log_decay": [0.5, 0.8, 0.25, 0.6],
    }
    gates = {name: torch.tensor(x, dtype=torch.float64)[None, :, None] for name, x in gates.items()}
    titans = {
        "step_size": gates["step_size"] / 8,
        "momentum": gates["momentum"],
        "log_decay": gates["log_decay"].log(),
    }
    one = {
        "w1": [[0.5, -0.25, 2], [0.75, 1.5, -0.5]],
        "w1_bias": [0.3, -0.2, 0.4],
        "gain": [0.5, 2, 1.5],
        "shift": [0.25, -0.5, 3],
    }
    two = {"w1": [[0.5, -0.75], [0.25, 1.5]], "w2": [[0.6, -0.4, 1.2], [-0.8, 0.7, 0.3]]}
    one, two = (
        {f"function.{name}": torch.tensor([x], dtype=torch.float64) for name, x in params.items()}
        for params in (one, two)
    )
    ttt = Problem(
        Uniform(), Mlp(depth=1, bias=True, start=0.5, eps=0.25), GradientDescent(chunk=2, read_step=True)
    )
    lmm = Problem(
        Geometric(), Mlp(hidden=1, residual=False, start=0.5), GradientDescent(chunk=2, momentum=True)
    )
    return (
        HandWorked(ttt, q, k, v, corrected, {name: gates[name] for name in ("step_size", "read_step")}, one),
        HandWorked(lmm, q, k, v, deep, titans, two),
    )
