from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.ones import Ones


def cases() -> tuple[HandWorkedPart, ...]:
    q = torch.tensor([7.0, -3.0]).reshape(1, 1, 1, 2)
    return (
        HandWorkedPart(Ones(streams=("q",)), {"q": q}, {"q": torch.tensor([1.0, 1.0]).reshape(1, 1, 1, 2)}),
    )
