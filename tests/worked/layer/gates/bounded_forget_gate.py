from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.bounded_forget_gate import BoundedForgetGate


def cases() -> tuple[HandWorkedPart, ...]:
    # Bounds sigmoid(ln 3) = 3/4 and sigmoid(-ln 3) = 1/4, gates sigmoid(0) = 1/2 and sigmoid(ln 3) = 3/4:
    # 3/4 + 1/4 * 1/2 = 7/8 and 1/4 + 3/4 * 3/4 = 13/16.
    log3 = 1.0986122886681098
    k = torch.tensor([0.0, log3]).reshape(1, 1, 1, 2)
    return (
        HandWorkedPart(
            BoundedForgetGate(),
            {"k": k},
            {"log_decay": torch.log(torch.tensor([7 / 8, 13 / 16])).reshape(1, 1, 1, 2)},
            {"bound": torch.tensor([[log3, -log3]])},
        ),
    )
