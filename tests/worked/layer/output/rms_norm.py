from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.output.rms_norm import RMSNorm


def cases() -> tuple[HandWorkedPart, ...]:
    # Over both heads: mean square (1 + 9 + 25 + 49) / 4 = 21, plus eps 4: root 5.
    y = torch.tensor([[1.0, 3.0], [5.0, 7.0]]).reshape(1, 1, 2, 2)
    gain = torch.tensor([[5.0, 10.0], [2.0, -1.0]])
    expected = torch.tensor([[1.0, 6.0], [2.0, -1.4]]).reshape(1, 1, 2, 2)
    return (HandWorkedPart(RMSNorm(over="all", eps=4.0), {"y": y}, {"y": expected}, {"gain": gain}),)
