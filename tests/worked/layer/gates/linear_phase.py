from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.linear_phase import LinearPhase


def cases() -> tuple[HandWorkedPart, ...]:
    # x = (2, 3): 0.5*2 + 3 = 4 and -2 + 4*3 = 10.
    weight = torch.tensor([[[0.5, 1.0], [-1.0, 4.0]]])
    return (
        HandWorkedPart(
            LinearPhase(per="channel"),
            {"x": torch.tensor([[[2.0, 3.0]]])},
            {"phase": torch.tensor([4.0, 10.0]).reshape(1, 1, 1, 2)},
            {"weight": weight},
        ),
    )
