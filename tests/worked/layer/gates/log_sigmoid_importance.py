from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.log_sigmoid_importance import LogSigmoidImportance


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2, two pairs of one head: logits 0.5*2 + ln 3 - 1 = ln 3 and -1.5*2 + 3 = 0: 3 ln 3/4 and 3 ln
    #     1/2.
    params = {
        "weight": torch.tensor([[[0.5]], [[-1.5]]]),
        "bias": torch.tensor([[1.0986122886681098 - 1], [3.0]]),
    }
    expected = torch.tensor([-0.8630462173553427, -2.0794415416798357]).reshape(1, 1, 2, 1)
    return (
        HandWorkedPart(
            LogSigmoidImportance(power=3.0),
            {"x": torch.tensor([[[2.0]]])},
            {"log_importance": expected},
            params,
        ),
    )
