from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.projected_slope import ProjectedSlope


def cases() -> tuple[HandWorkedPart, ...]:
    # x = (2, 3): one head, two channels: 0.5*2 - 3 = -2 and 4*2 + 0.5*3 = 9.5.
    weight = torch.tensor([[[0.5, -1.0], [4.0, 0.5]]])
    return (
        HandWorkedPart(
            ProjectedSlope(),
            {"x": torch.tensor([[[2.0, 3.0]]])},
            {"slope": torch.tensor([[[[-2.0, 9.5]]]])},
            {"weight": weight},
        ),
    )
