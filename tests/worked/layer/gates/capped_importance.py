from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.capped_importance import CappedImportance


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2: (0.5*2 + ln 3 - 1) / 2 = ln 3 / 2, tanh (3 - 1) / (3 + 1) = 1/2; second head -ln 3 / 2: times
    #     the cap 2.
    log3 = 1.0986122886681098
    params = {"weight": torch.tensor([[0.5], [-1.5]]), "bias": torch.tensor([log3 - 1, 3.0 - log3])}
    return (
        HandWorkedPart(
            CappedImportance(cap=2.0),
            {"x": torch.tensor([[[2.0]]])},
            {"log_importance": torch.tensor([[[1.0, -1.0]]])},
            params,
        ),
    )
