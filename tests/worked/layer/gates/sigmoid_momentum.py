from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.sigmoid_momentum import SigmoidMomentum


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2: logits 0.5*2 + ln 3 - 1 = ln 3 and -1.5*2 + 3 - ln 3 = -ln 3: 3/4 and 1/4.
    log3 = 1.0986122886681098
    params = {"weight": torch.tensor([[0.5], [-1.5]]), "bias": torch.tensor([log3 - 1, 3 - log3])}
    return (
        HandWorkedPart(
            SigmoidMomentum(),
            {"x": torch.tensor([[[2.0]]])},
            {"momentum": torch.tensor([[[0.75, 0.25]]])},
            params,
        ),
    )
