from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.oja_rule import OjaRule
from ttr.weights.uniform import Uniform


def cases() -> tuple[HandWorked, ...]:
    # Decays of the value channels as below, steps 0.5, 0.2, 0.1; N diag(a), then step * (k - N v), then N; y
    # = N^T q / 2: 0; (0.25, 1); [[0.5, -0.75, 1], [2, -3, 4]].
    # [[0.4, -0.375, 0.25], [1.6, -1.5, 1]]; 0.2 (k - (-1.55, -6.2)) = (0.61, 1.14); [[-0.82, 2.065, 2.08],
    # [-0.68, 3.06, 4.42]]. [[-0.205, 0.826, 1.248], [-0.17, 1.224, 2.652]]; 0.1 (k - (-6.43, -12.07)) =
    # (0.593, 1.357); [[2.76, 0.5295, -1.124], [6.615, 0.5455, -2.776]].
    q, k, v, decay, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[0.5, 2], [1.5, -0.5], [-0.5, 1.5]],
            [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4]],
            [[0.5, 0.4, 0.2], [0.8, 0.5, 0.25], [0.25, 0.4, 0.6]],
            [[3.5, -5.25, 7], [0.55, -0.0375, 1.3], [-5.925, -0.413125, 2.495]],
        )
    )
    controls = {
        "value_log_decay": decay.log(),
        "step_size": torch.tensor([[[0.5], [0.2], [0.1]]], dtype=torch.float64),
    }
    return (HandWorked(Problem(Uniform(), Linear(scale=0.5), OjaRule()), q, k, v, y, controls),)
