from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.time_step_value import TimeStepValue


def cases() -> tuple[HandWorkedPart, ...]:
    # Head by head: 3 * (2, 5) and 0.5 * (7, 4).
    v = torch.tensor([[2.0, 5.0], [7.0, 4.0]]).reshape(1, 1, 2, 2)
    expected = {"v": torch.tensor([[6.0, 15.0], [3.5, 2.0]]).reshape(1, 1, 2, 2), "input": v}
    return (HandWorkedPart(TimeStepValue(), {"v": v, "time_step": torch.tensor([[[3.0, 0.5]]])}, expected),)
