from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.sigmoid_step_size import SigmoidStepSize


def cases() -> tuple[HandWorkedPart, ...]:
    # x = (1, 2): W x = (2*1 - 0.5*2, -1*1 + 0.5*2 - ln 3 * 1) = (1, -ln 3); 2 sigmoid(1) = 1.4621171573,
    #     2 sigmoid(-ln 3) = 0.5.
    weight = torch.tensor([[2.0, -0.5], [-1.0 - 1.0986122886681098, 0.5]])
    expected = {"step_size": torch.tensor([[[1.4621171572600098, 0.5]]])}
    return (
        HandWorkedPart(
            SigmoidStepSize(doubled=True), {"x": torch.tensor([[[1.0, 2.0]]])}, expected, {"weight": weight}
        ),
    )
