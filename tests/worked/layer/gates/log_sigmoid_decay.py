from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.log_sigmoid_decay import LogSigmoidDecay


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2: logits 0.5*2 + ln 3 - 1 = ln 3 and -1.5*2 + 3 = 0: ln 3/4 and ln 1/2.
    params = {
        "weight": torch.tensor([[0.5], [-1.5]]),
        "bias": torch.tensor([1.0986122886681098 - 1, 3.0]),
    }
    expected = torch.tensor([[[-0.2876820724517809, -0.6931471805599453]]])
    return (
        HandWorkedPart(LogSigmoidDecay(), {"x": torch.tensor([[[2.0]]])}, {"log_decay": expected}, params),
    )
