from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.capped_softplus_decay import CappedSoftplusDecay


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2, W = 0.5, bias -1: softplus(0) = ln 2, times the rate 3, below -0.5.
    log2, log3 = 0.6931471805599453, 1.0986122886681098
    params = {"weight": torch.tensor([[0.5]]), "bias": torch.tensor([-1.0]), "rate": torch.tensor([log3])}
    streams = {"x": torch.tensor([[[2.0]]]), "log_cap": torch.tensor([[[-0.5]]])}
    return (
        HandWorkedPart(
            CappedSoftplusDecay(), streams, {"log_decay": torch.tensor([[[-0.5 - 3 * log2]]])}, params
        ),
    )
