from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.preconditioner_decay import PreconditionerDecay


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2, W = 0.5, bias -1: softplus(0) = ln 2, times the rate 3.
    log2, log3 = 0.6931471805599453, 1.0986122886681098
    params = {"weight": torch.tensor([[0.5]]), "bias": torch.tensor([-1.0]), "rate": torch.tensor([log3])}
    return (
        HandWorkedPart(
            PreconditionerDecay(),
            {"x": torch.tensor([[[2.0]]])},
            {"precond_log_decay": torch.tensor([[[-3 * log2]]])},
            params,
        ),
    )
