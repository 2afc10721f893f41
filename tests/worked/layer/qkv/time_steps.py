from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.time_steps import LowRankTimeStep, TimeStepValue


def cases() -> tuple[HandWorkedPart, ...]:
    return (
        *_low_rank_time_step(),
        *_time_step_value(),
    )


def _low_rank_time_step() -> tuple[HandWorkedPart, ...]:
    # Values 2 and 3 go down to 4*2 - 2*3 = 2, up to (0.5, -1), plus bias (ln(e - 1) - 0.5, 1): softplus 1
    # and ln 2.
    params = {
        "down": torch.tensor([[4.0, -2.0]]).reshape(1, 2, 1),
        "up": torch.tensor([[0.25], [-0.5]]),
        "bias": torch.tensor([0.5413248546129181 - 0.5, 1.0]),
    }
    v = torch.tensor([2.0, 3.0]).reshape(1, 1, 2, 1)
    return (
        HandWorkedPart(
            LowRankTimeStep(rank=1),
            {"v": v},
            {"time_step": torch.tensor([[[1.0, 0.6931471805599453]]])},
            params,
        ),
    )


def _time_step_value() -> tuple[HandWorkedPart, ...]:
    # Head by head: 3 * (2, 5) and 0.5 * (7, 4).
    v = torch.tensor([[2.0, 5.0], [7.0, 4.0]]).reshape(1, 1, 2, 2)
    expected = {"v": torch.tensor([[6.0, 15.0], [3.5, 2.0]]).reshape(1, 1, 2, 2), "input": v}
    return (HandWorkedPart(TimeStepValue(), {"v": v, "time_step": torch.tensor([[[3.0, 0.5]]])}, expected),)
