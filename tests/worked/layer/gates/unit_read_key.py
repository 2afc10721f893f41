from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.unit_read_key import UnitReadKey


def cases() -> tuple[HandWorkedPart, ...]:
    # (6, -2) * (0.5, 2) = (3, -4), of norm 5.
    streams = {"k": torch.tensor([6.0, -2.0]).reshape(1, 1, 1, 2)}
    return (
        HandWorkedPart(
            UnitReadKey(),
            streams,
            {"read_key": torch.tensor([0.6, -0.8]).reshape(1, 1, 1, 2)},
            {"gain": torch.tensor([[0.5, 2.0]])},
        ),
    )
