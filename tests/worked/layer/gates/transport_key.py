from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.transport_key import TransportKey


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2 goes down to 3 and up to (6, -4.5).
    params = {"down": torch.tensor([[1.5]]), "up": torch.tensor([[[2.0], [-1.5]]])}
    expected = torch.tensor([6.0, -4.5]).reshape(1, 1, 1, 2)
    return (
        HandWorkedPart(
            TransportKey(rank=1, unit=False),
            {"x": torch.tensor([[[2.0]]])},
            {"transport_key": expected},
            params,
        ),
    )
