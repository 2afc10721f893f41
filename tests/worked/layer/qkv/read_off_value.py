from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.read_off_value import ReadOffValue


def cases() -> tuple[HandWorkedPart, ...]:
    # Values 2 and 3 of two heads: q = (5*2 - 3, 4*3) = (7, 12), k = (0.5*2 + 2*3, 3*2 - 7*3) = (7, -15).
    v = torch.tensor([2.0, 3.0]).reshape(1, 1, 2, 1)
    params = {
        "q": torch.tensor([[5.0, -1.0], [0.0, 4.0]]).reshape(1, 2, 2, 1),
        "k": torch.tensor([[0.5, 2.0], [3.0, -7.0]]).reshape(1, 2, 2, 1),
    }
    expected = {
        "q": torch.tensor([7.0, 12.0]).reshape(1, 1, 1, 2),
        "k": torch.tensor([7.0, -15.0]).reshape(1, 1, 1, 2),
    }
    return (HandWorkedPart(ReadOffValue(), {"v": v}, expected, params),)
