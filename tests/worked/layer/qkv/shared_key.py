from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.shared_key import SharedKey


def cases() -> tuple[HandWorkedPart, ...]:
    q = torch.tensor([2.0, -3.0]).reshape(1, 1, 1, 2)
    return (HandWorkedPart(SharedKey(), {"q": q, "k": torch.full((1, 1, 1, 2), 9.0)}, {"k": q}),)
