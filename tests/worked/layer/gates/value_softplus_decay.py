from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.value_softplus_decay import ValueSoftplusDecay


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2 goes down to 3, up to (0.75, -1.5), plus bias (-0.75, 1.5): softplus(0) = ln 2 twice, times
    # the rate 3.
    log2, log3 = 0.6931471805599453, 1.0986122886681098
    params = {
        "down": torch.tensor([[1.5]]),
        "up": torch.tensor([[[0.25], [-0.5]]]),
        "bias": torch.tensor([[-0.75, 1.5]]),
        "rate": torch.tensor([log3]),
    }
    expected = torch.full((1, 1, 1, 2), -3 * log2)
    return (
        HandWorkedPart(
            ValueSoftplusDecay(), {"x": torch.tensor([[[2.0]]])}, {"value_log_decay": expected}, params
        ),
    )
