from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.bounded_low_rank_decay import BoundedLowRankDecay


def cases() -> tuple[HandWorkedPart, ...]:
    # 2 goes down to ln 3, whose tanh is 0.8, up to (0.4, -1.6), plus bias (ln 3 - 0.4, 1.6): sigmoids 3/4
    # and 1/2, times -2.
    log3 = 1.0986122886681098
    params = {
        "down": torch.tensor([[log3 / 2]]),
        "up": torch.tensor([[[0.5], [-2.0]]]),
        "bias": torch.tensor([[log3 - 0.4, 1.6]]),
    }
    expected = {"log_decay": torch.tensor([-1.5, -1.0]).reshape(1, 1, 1, 2)}
    return (
        HandWorkedPart(
            BoundedLowRankDecay(rank=1, fastest=2.0), {"x_decay": torch.tensor([[[2.0]]])}, expected, params
        ),
    )
