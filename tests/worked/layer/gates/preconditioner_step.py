from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.preconditioner_step import PreconditionerStep


def cases() -> tuple[HandWorkedPart, ...]:
    # x = (1, 2): W x = -1 + 0.5*2 - ln 3, whose sigmoid is 1/4.
    params = {"weight": torch.tensor([[-1.0 - 1.0986122886681098, 0.5]])}
    return (
        HandWorkedPart(
            PreconditionerStep(),
            {"x": torch.tensor([[[1.0, 2.0]]])},
            {"precond_step": torch.tensor([[[0.25]]])},
            params,
        ),
    )
