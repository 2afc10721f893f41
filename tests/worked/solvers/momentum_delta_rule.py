from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.momentum_delta_rule import MomentumDeltaRule
from ttr.weights.geometric import Geometric


def cases() -> tuple[HandWorked, ...]:
    q, k, v, p, old, decayed = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[0.5, 2], [1.5, -0.5], [-0.5, 1.5]],
            [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4]],
            [[2, -0.5], [0.5, 1.5], [-2, 0.5]],
            # Decays 0.5, 0.8, 0.25, steps 0.5, 0.2, 0.6, momenta 0.5, 0.75, 0.4, their steps 2, 0.5, 0.25.
            # Error, Z, then S: v; Z = -0.5 k v^T = [[-0.5, 0.75, -1], [-2, 3, -4]]; S = -2 Z = [[1, -1.5, 2],
            # [4, -6, 8]].
            # v - S^T k = (-1.5, 3.25, 4); 0.75 Z - 0.2 k (.)^T = [[0.075, -0.4125, -1.95], [-1.65, 2.575,
            # -2.6]]; 0.8 S - 0.5 Z = [[0.7625, -0.99375, 2.575], [4.025, -6.0875, 7.7]].
            # (-0.65625, 8.134375, -14.2625); [[-0.166875, 2.2753125, -5.05875], [-0.069375, -6.2909375,
            # 11.79625]]; 0.25 S - 0.25 Z = [[0.23234375, -0.817265625, 1.9084375], [1.02359375, 0.050859375,
            # -1.0240625]].
            [[7, -10.5, 14], [2.88125, -4.596875, 3.8375], [-0.9655078125, -0.25517578125, 1.501171875]],
            # Error at the decayed memory and the read key p, decays (0.5, 0.3), (0.8, 0.4), (0.25, 0.6) per
            # channel, the rest as before: the same first token. (-4.8, 8.2, -2.6); Z = [[1.065, -1.8975,
            # 0.03], [-1.98, 3.07, -3.26]];
            # S = [[0.2675, -0.25125, 1.585], [2.59, -3.935, 4.83]]. (4.35675, 0.554875, -4.6565);
            # Z = [[1.733025, -0.5925375, -1.38495], [-4.713075, 0.7286125, 2.88685]];
            # S = [[-0.36638125, 0.085321875, 0.7424875], [2.73226875, -2.543153125, 2.1762875]].
            [[7, -10.5, 14], [2.18875, -3.558125, 2.4525], [-2.8238640625, 2.56448359375, -1.990665625]],
        )
    )
    step, momentum, momentum_step, head = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in ([0.5, 0.2, 0.6], [0.5, 0.75, 0.4], [2, 0.5, 0.25], [0.5, 0.8, 0.25])
    )
    channel = torch.tensor([[0.5, 0.3], [0.8, 0.4], [0.25, 0.6]], dtype=torch.float64).log()[None, :, None]
    controls = {"step_size": step, "momentum": momentum, "momentum_step": momentum_step}
    return (
        HandWorked(
            Problem(Geometric(), Linear(scale=0.5), MomentumDeltaRule()),
            q,
            k,
            v,
            old,
            {**controls, "log_decay": head.log()},
        ),
        HandWorked(
            Problem(
                Geometric("channel"), Linear(scale=0.5), MomentumDeltaRule("decayed", separate_read=True)
            ),
            q,
            k,
            v,
            decayed,
            {**controls, "log_decay": channel, "read_key": p},
        ),
    )
