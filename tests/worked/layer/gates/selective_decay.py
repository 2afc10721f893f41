from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.selective_decay import SelectiveDecay


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2, A x = ln(e^3 - 1) and 0: softplus 3, and ln 2, of which the floor 0.7 makes 0.7. W x + bias =
    # ln(e - 1) and 0: dt = 1 and ln 2.
    log2 = 0.6931471805599453
    params = {
        "weight": torch.tensor([[0.25], [0.5]]),
        "bias": torch.tensor([0.5413248546129181 - 0.5, -1.0]),
        "rate": torch.tensor([[2.9489308190638107 / 2], [0.0]]),
    }
    expected = {
        "log_decay": torch.tensor([[[-3.0, -0.7 * log2]]]),
        "time_step": torch.tensor([[[1.0, log2]]]),
    }
    return (HandWorkedPart(SelectiveDecay(floor=0.7), {"x": torch.tensor([[[2.0]]])}, expected, params),)
