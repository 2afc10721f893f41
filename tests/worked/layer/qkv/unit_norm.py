from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.unit_norm import UnitNorm


def cases() -> tuple[HandWorkedPart, ...]:
    # sqrt(2^2 + 3^2 + 6^2 + 15) = 8.
    x = torch.tensor([2.0, 3.0, 6.0]).reshape(1, 1, 1, 3)
    return (
        HandWorkedPart(
            UnitNorm(streams=("k",), eps=15.0),
            {"k": x},
            {"k": torch.tensor([0.25, 0.375, 0.75]).reshape(1, 1, 1, 3)},
        ),
    )
