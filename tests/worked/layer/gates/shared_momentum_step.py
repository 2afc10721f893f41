from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.shared_momentum_step import SharedMomentumStep


def cases() -> tuple[HandWorkedPart, ...]:
    # tan = 1.5 * 2 = 3: sin^2 = 9/10, cos^2 = 1/10; sigmoid(2 * 0) = 1/2 and, for tan = 0.5 * 2 = 1,
    #     sigmoid(ln 3) = 3/4.
    log2, log3, log10 = 0.6931471805599453, 1.0986122886681098, 2.302585092994046
    params = {"weight": torch.tensor([[0.0], [log3 / 2]]), "factor": torch.tensor([log2, log2])}
    streams = {"x": torch.tensor([[[2.0]]]), "step_size": torch.tensor([[[1.5, 0.5]]])}
    expected = {
        "momentum_step": torch.tensor([[[0.45, 0.375]]]),
        "log_cap": torch.tensor([[[-log10, -log2]]]),
    }
    return (HandWorkedPart(SharedMomentumStep(), streams, expected, params),)
