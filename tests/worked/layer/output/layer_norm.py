from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.output.layer_norm import LayerNorm


def cases() -> tuple[HandWorkedPart, ...]:
    # Two heads of two channels, (6, 2) and (3, 5): mean 4, deviations 2, -2, -1, 1 of mean square 5/2;
    # with eps 3.75 the root is
    # 2.5: 0.8, -0.8, -0.4, 0.4, times the gain plus the shift.
    y = torch.tensor([[[[6.0, 2.0], [3.0, 5.0]]]])
    params = {
        "gain": torch.tensor([[2.0, 3.0], [-5.0, 0.5]]),
        "shift": torch.tensor([[0.25, -0.5], [3.0, 2.0]]),
    }
    return (
        HandWorkedPart(
            LayerNorm(eps=3.75), {"y": y}, {"y": torch.tensor([[[[1.85, -2.9], [5.0, 2.2]]]])}, params
        ),
    )
