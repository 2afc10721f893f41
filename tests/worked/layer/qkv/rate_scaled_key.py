from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.rate_scaled_key import RateScaledKey


def cases() -> tuple[HandWorkedPart, ...]:
    # (8, 4) * (1 + (0.25 - 1) * 0.5, 1 + (0.5 - 1) * 3) = (8 * 0.625, 4 * -0.5).
    streams = {
        "k": torch.tensor([8.0, 4.0]).reshape(1, 1, 1, 2),
        "learning_rate": torch.tensor([0.25, 0.5]).reshape(1, 1, 1, 2),
    }
    return (
        HandWorkedPart(
            RateScaledKey(),
            streams,
            {"k": torch.tensor([5.0, -2.0]).reshape(1, 1, 1, 2)},
            {"strength": torch.tensor([[0.5, 3.0]])},
        ),
    )
