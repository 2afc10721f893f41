from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.sigmoid_mix import SigmoidMix


def cases() -> tuple[HandWorkedPart, ...]:
    # x = (2, 3): 0.5*2 - 3 + 2 + ln 3 = ln 3 and 0.25*2 + 0.5*3 - 2 - ln 4 = -ln 4: sigmoid = 3/4 and
    #     1/5.
    params = {
        "weight": torch.tensor([[0.5, -1.0], [0.25, 0.5]]),
        "bias": torch.tensor([2 + 1.0986122886681098, -2 - 1.3862943611198906]),
    }
    return (
        HandWorkedPart(
            SigmoidMix(), {"x": torch.tensor([[[2.0, 3.0]]])}, {"mix": torch.tensor([[[0.75, 0.2]]])}, params
        ),
    )
