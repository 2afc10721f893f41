from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.scaled_read_key import ScaledReadKey


def cases() -> tuple[HandWorkedPart, ...]:
    # sigmoid(ln 3) = 3/4, sigmoid(-ln 3) = 1/4; both heads of the memory share the one key head.
    log3 = 1.0986122886681098
    k = torch.tensor([8.0, -4.0]).reshape(1, 1, 1, 2)
    expected = torch.tensor([[6.0, -3.0], [2.0, -1.0]]).reshape(1, 1, 2, 2)
    return (
        HandWorkedPart(
            ScaledReadKey(), {"k": k}, {"read_key": expected}, {"share": torch.tensor([log3, -log3])}
        ),
    )
