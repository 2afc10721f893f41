from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.ring_decay import RingDecay


def cases() -> tuple[HandWorkedPart, ...]:
    # Rates ln 2 and ln 3 at each of two tokens.
    params = {"rate": torch.tensor([0.6931471805599453, 1.0986122886681098])}
    return (
        HandWorkedPart(
            RingDecay(),
            {"x": torch.zeros(1, 2, 1)},
            {"log_decay": torch.tensor([-2.0, -3.0]).expand(1, 2, 2)},
            params,
        ),
    )
