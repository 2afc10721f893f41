from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.tanh_step_size import TanhStepSize


def cases() -> tuple[HandWorkedPart, ...]:
    # x has 4 channels that sum up to 2 ln 3: tanh(ln 3) = (9 - 1) / (9 + 1) = 0.8.
    params = {"weight": torch.tensor([[1.0, 1.0, 2.0, 0.5]])}
    x = 1.0986122886681098 * torch.tensor([[[0.25, 0.5, 0.5, 0.5]]])
    return (HandWorkedPart(TanhStepSize(), {"x": x}, {"step_size": torch.tensor([[[1.8]]])}, params),)
