from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.ring_gain import RingGain


def cases() -> tuple[HandWorkedPart, ...]:
    # exp(ln 3) * (2, 5).
    v, expected = (
        torch.tensor([2.0, 5.0]).reshape(1, 1, 1, 2),
        torch.tensor([6.0, 15.0]).reshape(1, 1, 1, 2),
    )
    return (
        HandWorkedPart(RingGain(), {"v": v}, {"v": expected}, {"gain": torch.tensor([1.0986122886681098])}),
    )
