from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Function, Problem, Weights
from ttr.solvers.delta_rule import DeltaRule
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.product import Product


def cases() -> tuple[HandWorked, ...]:
    q, k, v, p, decayed, old = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[0.5, 2], [1.5, -0.5], [-0.5, 1.5]],
            [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4]],
            [[2, -0.5], [0.5, 1.5], [-2, 0.5]],
            # Error at the decayed memory, decays 0.5, 0.8, 0.25, steps 0.5, 0.2, 0.6; D S, then step * (v -
            # (D S)^T k), then S, y = S^T q / 2: 0; (1, -1.5, 2); [[0.5, -0.75, 1], [2, -3, 4]].
            # [[0.4, -0.6, 0.8], [1.6, -2.4, 3.2]]; 0.2 (v - (-0.2, 0.3, -0.4)) = (-0.36, 0.74, 0.68);
            # [[-0.14, 0.51, 1.82], [1.78, -2.77, 2.86]]. [[-0.035, 0.1275, 0.455], [0.445, -0.6925, 0.715]];
            # 0.6 (v - (0.685, -1.1025, 0.845)) = (2.589, 0.3615, -2.907); [[-1.3295, -0.05325, 1.9085],
            # [4.3285, -0.15025, -3.6455]].
            [[3.5, -5.25, 7], [1.99, -3.535, 0.13], [-4.660875, 0.1369375, 4.122625]],
            # Error at the old memory and the read key p, decays (0.5, 0.3), (0.8, 0.4), (0.25, 0.6) per
            # channel, same steps: 0; (1, -1.5, 2); [[0.5, -0.75, 1], [2, -3, 4]].
            # [[0.4, -0.6, 0.8], [0.8, -1.2, 1.6]]; 0.2 (v - (3.25, -4.875, 6.5)) = (-1.05, 1.775, -0.7);
            # [[-1.175, 2.0625, -0.25], [1.325, -2.0875, 1.95]].
            # [[-0.29375, 0.515625, -0.0625], [0.795, -1.2525, 1.17]]; 0.6 (v - (3.0125, -5.16875, 1.475)) =
            # (1.1925, 2.80125, -3.285); [[-0.89, -0.885, 1.58], [2.58375, 2.949375, -3.7575]].
            [[3.5, -5.25, 7], [3.0875, -5.18125, 2.325], [-2.80625, -3.170625, 4.1525]],
        )
    )
    step = torch.tensor([[[0.5], [0.2], [0.6]]], dtype=torch.float64)
    head = torch.tensor([[[0.5], [0.8], [0.25]]], dtype=torch.float64).log()
    channel = torch.tensor([[0.5, 0.3], [0.8, 0.4], [0.25, 0.6]], dtype=torch.float64).log()[None, :, None]

    # Two pairs per token, old memory for the first and, nothing being forgotten between them, the running one
    # for the second. Steps times importances (0.25, 0.4), (0.6, 0.1), (0.16, 0.3), decays as above.
    # Corrections: (0.5, -0.75, 1); 0.4 (v - (1, -1.5, 2)) = (0.8, -0.2, -0.6), S = [[1.85, -0.775, -0.7],
    # [1.4, -1.6, 1.7]]. 0.6 (v - (3, -0.75, -2.25)) = (-3, 2.85, 3.15); 0.1 (v - (7.5, -7.95, -3.3)) = (-0.7,
    # 0.595, 0.53),
    #   S = [[-4.17, 4.7825, 5.475], [1.22, -1.515, 0.845]].
    # 0.16 (v - (3.915, -4.66375, -1.47)) = (0.1736, 0.6662, -0.4048);
    # 0.3 (v - (-0.28195, 0.7415375, 0.5876)) = (-0.815415, 0.37753875, 1.32372),
    #   S = [[-1.5370075, 1.051294375, 2.23301], [0.1576925, 0.809319375, 0.26591]].
    k2, v2, step2, importance2 = (
        torch.tensor(rows, dtype=torch.float64)[None, :, :, None]
        for rows in (
            [[[0.5, 2], [2, 0.5]], [[2, -0.5], [-0.5, 2]], [[-0.5, 1.5], [0.5, 0.5]]],
            [[[2, -3, 4], [3, -2, 0.5]], [[-2, 4, 3], [0.5, -2, 2]], [[5, -0.5, -4], [-3, 2, 5]]],
            [[0.5, 0.2], [0.2, 0.4], [0.4, 0.6]],
            [[0.5, 2], [3, 0.25], [0.4, 0.5]],
        )
    )
    y2 = torch.tensor(
        [
            [
                [[3.95, -3.175, 1.85]],
                [[7.475, -8.68875, -7.3675]],
                [[-0.541944375, -0.54649578125, 0.2923425]],
            ]
        ],
        dtype=torch.float64,
    )
    return (
        HandWorked(
            Problem(Geometric(), Linear(scale=0.5), DeltaRule()),
            q,
            k,
            v,
            decayed,
            {"log_decay": head, "step_size": step},
        ),
        HandWorked(
            Problem(Geometric("channel"), Linear(scale=0.5), DeltaRule("old", separate_read=True)),
            q,
            k,
            v,
            old,
            {"log_decay": channel, "step_size": step, "read_key": p},
        ),
        HandWorked(
            Problem(
                Product((Geometric(), Importance())), Linear(scale=0.5), DeltaRule("old", pairs_per_token=2)
            ),
            q,
            k2,
            v2,
            y2,
            {"log_decay": head, "step_size": step2, "log_importance": importance2.log()},
        ),
        *_gated(
            Geometric("channel"),
            Linear(scale=0.5),
            q,
            k,
            v,
            {"log_decay": channel, "step_size": step, "read_key": p},
        ),
    )


def _gated(
    weights: Weights,
    function: Function,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    controls: Mapping[str, Tensor],
) -> tuple[HandWorked, ...]:
    """Write gates with a unit step, and an erase key of its own, on the pairs of ``worked``."""
    write, erase, gated, erased = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[0.5, 2, 0.25], [1.5, 0.5, 2], [0.2, 3, 0.5]],
            [[0.5, 3], [2, 0.5], [-1.5, 2]],
            # Error at the decayed memory and the read key p, written values w * v = (1, -6, 1), (-3, 2, 6),
            # (1, -1.5, -2). Corrections: (1, -6, 1), S = [[0.5, -3, 0.5], [2, -12, 2]].
            # D S = [[0.4, -2.4, 0.4], [0.8, -4.8, 0.8]]; w * v - (1.4, -8.4, 1.4) = (-4.4, 10.4, 4.6); S =
            # [[-6.2, 13.2, 7.3], [3, -10, -1.5]]. D S = [[-1.55, 3.3, 1.825], [1.8, -6, -0.9]]; w * v - (4,
            # -9.6, -4.1) = (-3, 8.1, 2.1); S = [[-0.05, -0.75, 0.775], [-2.7, 6.15, 2.25]].
            [[3.5, -21, 3.5], [12.3, -29.8, -12.45], [2.6875, -6.3375, -2.05625]],
            # Error at the old memory and p, taken off at the erase key, steps 0.5, 0.2, 0.6: S = 0.5 k v^T =
            # [[0.5, -0.75, 1], [2, -3, 4]]. D S = [[0.4, -0.6, 0.8], [0.8, -1.2, 1.6]]; + k (-0.4, 0.8, 0.6)
            # - e (0.65, -0.975, 1.3) = [[-1.5, 2.55, -0.9], [0.675, -1.1125, 0.65]]. D S = [[-0.375, 0.6375,
            # -0.225], [0.405, -0.6675, 0.39]]; + k (3, -0.3, -2.4) - e (2.0025, -3.39375, 1.275) = [[1.12875,
            # -4.303125, 2.8875], [0.9, 5.67, -5.76]].
            [[3.5, -5.25, 7], [2.925, -4.9375, 2], [-0.6178125, -6.74578125, 6.481875]],
        )
    )
    unit = {name: control for name, control in controls.items() if name != "step_size"}
    with_write = Problem(weights, function, DeltaRule(separate_read=True, gated_write=True, unit_step=True))
    with_erase = Problem(weights, function, DeltaRule("old", separate_read=True, separate_erase=True))
    return (
        HandWorked(with_write, q, k, v, gated, {**unit, "write": write}),
        HandWorked(with_erase, q, k, v, erased, {**controls, "erase_key": erase}),
    )
