from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.low_rank_exponential_decay import LowRankExponentialDecay


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2 goes down to ln 3 / 2, tanh (3 - 1) / (3 + 1) = 1/2, up to (1.5, -2), plus bias (ln 3 - 1.5, 2
    # + ln 5): -3 and -5.
    log3, log5 = 1.0986122886681098, 1.6094379124341003
    params = {
        "down": torch.tensor([[log3 / 4]]),
        "up": torch.tensor([[[3.0], [-4.0]]]),
        "bias": torch.tensor([[log3 - 1.5, 2 + log5]]),
    }
    expected = torch.tensor([-3.0, -5.0]).reshape(1, 1, 1, 2)
    return (
        HandWorkedPart(
            LowRankExponentialDecay(rank=1), {"x": torch.tensor([[[2.0]]])}, {"log_decay": expected}, params
        ),
    )
