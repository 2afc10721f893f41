from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.sigmoid_write import SigmoidWrite


def cases() -> tuple[HandWorkedPart, ...]:
    # x = (1, 2): W x = (2 - 1, -ln 3); sigmoids 0.7310585786 and 1/4.
    weight = torch.tensor([[[2.0, -0.5], [-1.0986122886681098, 0.0]]])
    expected = {"write": torch.tensor([0.7310585786300049, 0.25]).reshape(1, 1, 1, 2)}
    return (
        HandWorkedPart(SigmoidWrite(), {"x": torch.tensor([[[1.0, 2.0]]])}, expected, {"weight": weight}),
    )
