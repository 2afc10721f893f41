from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.angle_rotary import AngleRotary


def cases() -> tuple[HandWorkedPart, ...]:
    # An eighth of a turn takes (3, 5) to ((3 - 5) r, (5 + 3) r) and (2, -4) to (6 r, -2 r), r =
    # sqrt(1/2); the third channel stays.
    r = 0.5**0.5
    streams = {
        "q": torch.tensor([3.0, 5.0, 7.0]).reshape(1, 1, 1, 3),
        "k": torch.tensor([2.0, -4.0, 6.0]).reshape(1, 1, 1, 3),
        "angle": torch.full((1, 1, 1, 1), 0.7853981633974483),
    }
    expected = {
        "q": torch.tensor([-2 * r, 8 * r, 7.0]).reshape(1, 1, 1, 3),
        "k": torch.tensor([6 * r, -2 * r, 6.0]).reshape(1, 1, 1, 3),
    }
    return (HandWorkedPart(AngleRotary(), streams, expected),)
