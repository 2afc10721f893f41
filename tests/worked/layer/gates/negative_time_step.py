from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.negative_time_step import NegativeTimeStep


def cases() -> tuple[HandWorkedPart, ...]:
    return (
        HandWorkedPart(
            NegativeTimeStep(),
            {"time_step": torch.tensor([[[3.0, 0.5]]])},
            {"log_decay": torch.tensor([[[-3.0, -0.5]]])},
        ),
    )
