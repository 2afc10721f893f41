from __future__ import annotations

import torch

from tests.worked import HandWorked
from tests.worked import cases as cases_of
from ttr.functions.gated_mlp import GatedMlp
from ttr.functions.mlp import Mlp
from ttr.problem import Problem
from ttr.solvers.chunk_descent import ChunkDescent
from ttr.solvers.losses.squared_error import SquaredError
from ttr.solvers.maps.newton_schulz import NewtonSchulz
from ttr.weights.uniform import Uniform


def cases() -> tuple[HandWorked, ...]:
    q, k, v, y = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2], [3, 0.5], [-2, 0.5]],
            [[0.5, 2], [1.5, -0.5], [-0.5, 1.5], [2, 0.5], [-1.5, 2.5]],
            [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4], [3, 2, -2], [0.5, 3, -4]],
            # A network of one matrix W, squared error, chunks of 2, steps 0.5, 0.2, 0.6, 0.3. Tokens 1 and 2
            # read the start, q W. Then G = 0.5 k_1 (v_1 - k_1 W)^T + 0.2 k_2 (v_2 - k_2 W)^T = [-0.6325,
            # 0.06875, 0.925],
            # [0.59, -6.3875, 4.025] is orthogonalised by two iterations to [-0.24170661993, 0.094104529629,
            # 0.301051073434],
            # [0.10439198791, -1.057457691368, 0.655955816697] and added; tokens 3 and 4 read the sum.
            [
                [3.1, 4, 2.5],
                [-0.1, 3.75, -7],
                [-1.47963728579, -0.963032352449, 0.838613903324],
                [1.17707613417, -0.246415256798, 6.98113112865],
                [0.705536813712, -0.754135035663, -3.28331029057],
            ],
        )
    )
    step = torch.tensor([0.5, 0.2, 0.6, 0.3, 0.4], dtype=torch.float64)[None, :, None, None]
    start = {"function.w1": torch.tensor([[[0.5, -0.25, 2], [0.7, 1.5, -0.5]]], dtype=torch.float64)}
    soft = NewtonSchulz(((2.0, -1.5, 0.5), (1.5, -0.5, 0.25)), eps=0.1)
    plain = ChunkDescent(chunk=2, loss=SquaredError(), orthogonalise=soft, renormalise=False)
    return (
        HandWorked(
            Problem(Uniform(), Mlp(depth=1, residual=False, start=0.5), plain),
            q,
            k,
            v,
            y,
            {"step_size": step},
            start,
        ),
        *cases_of(GatedMlp),
    )  # with momentum and lengths kept
