from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.channel_softplus_decay import ChannelSoftplusDecay


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2 goes down to 3, up to (0.75, -1.5), plus bias (-0.75 + ln(e - 1), 1.5): softplus 1 and ln 2;
    # times rate exp(ln 4) = 4.
    log2 = 0.6931471805599453
    params = {
        "down": torch.tensor([[1.5]]),
        "up": torch.tensor([[[0.25], [-0.5]]]),
        "bias": torch.tensor([[0.5413248546129181 - 0.75, 1.5]]),
        "rate": torch.tensor([2 * log2]),
    }
    return (
        HandWorkedPart(
            ChannelSoftplusDecay(),
            {"x": torch.tensor([[[2.0]]])},
            {"log_decay": torch.tensor([-4.0, -4 * log2]).reshape(1, 1, 1, 2)},
            params,
        ),
    )
