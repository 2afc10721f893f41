from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.implicit_delta_rule import ImplicitDeltaRule
from ttr.weights.geometric import Geometric


def cases() -> tuple[HandWorked, ...]:
    # The gradient of the objective vanishes where (I + step k k^T) S = D S_old + step k v^T. Decays 0.5, 0.8,
    # 0.25, steps 0.5, 0.2, 0.6: [[1.125, 0.5], [., 3]] S = 0.5 k v^T: S = [[0.16, -0.24, 0.32], [0.64, -0.96,
    # 1.28]].
    # [[1.45, -0.15], [., 1.05]] S = 0.8 S_old + 0.2 k v^T = [[-0.472, 1.008, 1.156], [0.712, -1.168, 0.724]]:
    #   S = [[-0.2592, 0.5888, 0.8816], [4.808, -7.712, 6.116] / 7.5].
    # [[1.15, -0.45], [., 2.35]] S = 0.25 S_old + 0.6 k v^T = [[-1.5648, 0.2972, 1.4204], [34.952, -5.303,
    # -25.471] / 7.5]:
    #   S = [[-0.632064, 0.152096, 0.723872], [13.96544, -2.03816, -9.79912] / 7.5].
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[0.5, 2], [1.5, -0.5], [-0.5, 1.5]],
            [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4]],
            [
                [1.12, -1.68, 2.24],
                [0.3888 + 4.808 / 7.5, -0.8832 - 7.712 / 7.5, -1.3224 + 6.116 / 7.5],
                [-0.158016 - 13.96544 / 7.5, 0.038024 + 2.03816 / 7.5, 0.180968 + 9.79912 / 7.5],
            ],
        )
    )
    controls = {
        "log_decay": torch.tensor([[[0.5], [0.8], [0.25]]], dtype=torch.float64).log(),
        "step_size": torch.tensor([[[0.5], [0.2], [0.6]]], dtype=torch.float64),
    }
    return (HandWorked(Problem(Geometric(), Linear(scale=0.5), ImplicitDeltaRule()), q, k, v, y, controls),)
