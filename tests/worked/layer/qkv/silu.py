from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.silu import Silu


def cases() -> tuple[HandWorkedPart, ...]:
    # sigmoid(ln 3) = 3/4 and sigmoid(-ln 3) = 1/4.
    log3 = 1.0986122886681098
    q, expected = (
        torch.tensor([log3, -log3]).reshape(1, 1, 1, 2),
        torch.tensor([0.75 * log3, -0.25 * log3]).reshape(1, 1, 1, 2),
    )
    return (HandWorkedPart(Silu(streams=("q",)), {"q": q}, {"q": expected}),)
