from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.sigmoid_rate import SigmoidRate


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2: logits 0.5*2 + ln 3 - 1 = ln 3 and -1.5*2 + 3 - ln 3 = -ln 3, sigmoids 3/4 and 1/4, times 0.8
    #     over K = 5.
    log3 = 1.0986122886681098
    params = {"weight": torch.tensor([[0.5], [-1.5]]), "bias": torch.tensor([log3 - 1, 3 - log3])}
    streams = {"x": torch.tensor([[[2.0]]]), "k": torch.tensor([[[[2.0, 3.0, 4.0, 5.0, 6.0]]]])}
    return (
        HandWorkedPart(SigmoidRate(base=0.8), streams, {"step_size": torch.tensor([[[0.12, 0.04]]])}, params),
    )
