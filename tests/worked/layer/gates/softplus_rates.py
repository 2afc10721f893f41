from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.softplus_rates import SoftplusRates


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2, two groups of one head: logits 0.25*2 - 0.5 + ln(e - 1), whose softplus is ln(1 + e - 1) = 1,
    #     and 0.5*2 - 1 = 0, of which it is ln 2.
    params = {
        "weight": torch.tensor([[[0.25], [0.5]]]),
        "bias": torch.tensor([[0.5413248546129181 - 0.5, -1.0]]),
    }
    expected = {"step_size": torch.tensor([1.0, 0.6931471805599453]).reshape(1, 1, 1, 2)}
    return (HandWorkedPart(SoftplusRates(), {"x": torch.tensor([[[2.0]]])}, expected, params),)
