from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.softplus_momentum import SoftplusMomentum


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2, W = 0.5, bias -1: softplus(0) = ln 2. With rate 2, exp(-2 ln 2) = 1/4; with rate 3, 1/8 is
    #     raised to 0.2.
    log2, log3 = 0.6931471805599453, 1.0986122886681098
    params = {
        "weight": torch.tensor([[0.5], [0.5]]),
        "bias": torch.tensor([-1.0, -1.0]),
        "rate": torch.tensor([log2, log3]),
    }
    return (
        HandWorkedPart(
            SoftplusMomentum(at_least=0.2),
            {"x": torch.tensor([[[2.0]]])},
            {"momentum": torch.tensor([[[0.25, 0.2]]])},
            params,
        ),
    )
