from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.softplus_decay import SoftplusDecay


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2, W = 0.25, bias -0.5 + ln(e - 1): dt = softplus(ln(e - 1)) = ln(1 + e - 1) = 1; second head W
    # = 0.5, bias -1: dt =
    # softplus(0) = ln 2. Rates ln 3 and ln 2: log decays -3 and -2 ln 2.
    log2, log3 = 0.6931471805599453, 1.0986122886681098
    params = {
        "weight": torch.tensor([[0.25], [0.5]]),
        "bias": torch.tensor([0.5413248546129181 - 0.5, -1.0]),
        "rate": torch.tensor([log3, log2]),
    }
    expected = {
        "log_decay": torch.tensor([[[-3.0, -2 * log2]]]),
        "time_step": torch.tensor([[[1.0, log2]]]),
    }
    return (HandWorkedPart(SoftplusDecay(), {"x": torch.tensor([[[2.0]]])}, expected, params),)
