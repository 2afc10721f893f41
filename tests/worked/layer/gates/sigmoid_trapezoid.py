from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.sigmoid_trapezoid import SigmoidTrapezoid


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2: logits ln 3 and -ln 3: sigmoids 3/4 and 1/4.
    log3 = 1.0986122886681098
    streams = {"x": torch.tensor([[[2.0]]])}
    return (
        HandWorkedPart(
            SigmoidTrapezoid(),
            streams,
            {"trapezoid": torch.tensor([[[0.75, 0.25]]])},
            {"weight": torch.tensor([[log3 / 2], [-log3 / 2]])},
        ),
    )
