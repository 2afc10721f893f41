from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.output.gated_rms_norm import GatedRMSNorm


def cases() -> tuple[HandWorkedPart, ...]:
    # Mean square (9 + 25) / 2 = 17, plus eps 8: root 5. x = 2 goes down to (3, 1), up to (0.25, ln 3),
    # plus bias (0, ln 3): sigmoids 1/2, 3/4. y = (3/5 * 10 * 1/2, 5/5 * 4 * 3/4) = (3, 3).
    params = {
        "gain": torch.tensor([10.0, 4.0]),
        "down": torch.tensor([[1.5], [0.5]]),
        "bias": torch.tensor([[-0.25, 0.0]]),
        "weight": torch.tensor([[[0.0, 0.25], [1.0986122886681098 / 3, 0.0]]]),
    }
    streams = {"x": torch.tensor([[[2.0]]]), "y": torch.tensor([3.0, 5.0]).reshape(1, 1, 1, 2)}
    return (
        HandWorkedPart(
            GatedRMSNorm(gate="sigmoid", low_rank=True, eps=8.0),
            streams,
            {"y": torch.tensor([3.0, 3.0]).reshape(1, 1, 1, 2)},
            params,
        ),
    )
