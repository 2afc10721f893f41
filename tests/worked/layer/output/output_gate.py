from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.output.output_gate import OutputGate


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2: logits ln 3 and -ln 3, times their sigmoids 3/4 and 1/4.
    log3 = 1.0986122886681098
    streams = {"x": torch.tensor([[[2.0]]]), "y": torch.tensor([8.0, -4.0]).reshape(1, 1, 1, 2)}
    params = {"weight": torch.tensor([[[log3 / 2], [-log3 / 2]]])}
    return (
        HandWorkedPart(
            OutputGate(), streams, {"y": torch.tensor([6 * log3, log3]).reshape(1, 1, 1, 2)}, params
        ),
    )
