from __future__ import annotations

import torch

from tests.worked import HandWorked
from ttr.functions.gated_mlp import GatedMlp
from ttr.problem import Problem
from ttr.solvers.chunk_descent import ChunkDescent
from ttr.weights.uniform import Uniform


def cases() -> tuple[HandWorked, ...]:
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2], [3, 0.5], [-2, 0.5]],
            [[0.5, 2], [1.5, -0.5], [-0.5, 1.5], [2, 0.5], [-1.5, 2.5]],
            [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4], [3, 2, -2], [0.5, 3, -4]],
            # Loss -<m(k), v>, chunks of 2, steps of W_0, W_1, W_2 below, momenta 0.4, 0.3, 0.7, 0.2, 0.6. The
            # first two tokens read the start: q_1 W_0 = (1.75, 3), q_1 W_2 = (1.5, 3.2), silu(1.75) * 1.5 =
            # 2.236..., and so on. The gradients of the first chunk are added with their steps, and each
            # output's column brought back to its first length:
            # W_0 = [[0.215902373905, -0.848134168050], [-0.515637586194, -1.446773752333]],
            # W_2 = [[1.305034110895, -0.507812814222], [0.892674833077, -0.736288546931]], read by tokens 3
            # and 4. The second chunk's gradients plus (0.7 + 0.2) / 2 of the first's give those that token 5
            # reads.
            [
                [-5.9739436309, 5.50674769018, 5.42706481145],
                [-0.783723498314, 0.870655288216, 2.40172470186],
                [2.93239203309, -2.30715065939, 2.28775880118],
                [-0.0400377521549, 0.289351449282, 0.896683336505],
                [0.169220201815, -0.183688228966, 0.11494765853],
            ],
        )
    )
    steps = torch.tensor(
        [[0.5, 0.2, 0.3], [0.2, 0.4, 0.6], [0.6, 0.1, 0.2], [0.3, 0.7, 0.4], [0.4, 0.5, 0.6]],
        dtype=torch.float64,
    )
    momentum = torch.tensor([0.4, 0.3, 0.7, 0.2, 0.6], dtype=torch.float64)
    weights = {
        "w0": [[0.5, -0.75], [0.25, 1.5]],
        "w1": [[0.6, -0.4, 1.2], [-0.8, 0.7, 0.3]],
        "w2": [[1.5, 0.4], [-0.5, 0.8]],
    }
    params = {f"function.{name}": torch.tensor([x], dtype=torch.float64) for name, x in weights.items()}
    return (
        HandWorked(
            Problem(Uniform(), GatedMlp(start=0.5), ChunkDescent(chunk=2, momentum=True)),
            q,
            k,
            v,
            y,
            {"step_size": steps[None, :, None], "momentum": momentum[None, :, None]},
            params,
        ),
    )
