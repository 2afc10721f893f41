from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.time_steps import TimeStepDecay, TimeStepImportance


def cases() -> tuple[HandWorkedPart, ...]:
    return (
        *_negative_time_step(),
        *_time_step_importance(),
    )


def _negative_time_step() -> tuple[HandWorkedPart, ...]:
    return (
        HandWorkedPart(
            TimeStepDecay(),
            {"time_step": torch.tensor([[[3.0, 0.5]]])},
            {"log_decay": torch.tensor([[[-3.0, -0.5]]])},
        ),
    )


def _time_step_importance() -> tuple[HandWorkedPart, ...]:
    # ln 3 and -ln 2.
    expected = {"log_importance": torch.tensor([[[1.0986122886681098, -0.6931471805599453]]])}
    return (
        HandWorkedPart(
            TimeStepImportance(),
            {"x": torch.tensor([[[2.0]]]), "time_step": torch.tensor([[[3.0, 0.5]]])},
            expected,
        ),
    )
