from __future__ import annotations

import math

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.selective_angle import SelectiveAngle


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2, W x = ln 3 / 2: tanh 1/2; dt = 3 and 0.5: what the token adds is 1.5 pi and 0.25 pi.
    streams = {"x": torch.tensor([[[2.0]]]), "time_step": torch.tensor([[[3.0, 0.5]]])}
    expected = {"angle": math.pi * torch.tensor([1.5, 0.25]).reshape(1, 1, 2, 1)}
    return (
        HandWorkedPart(
            SelectiveAngle(), streams, expected, {"weight": torch.tensor([[1.0986122886681098 / 4]])}
        ),
    )
