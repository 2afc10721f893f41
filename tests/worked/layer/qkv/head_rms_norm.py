from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.head_rms_norm import HeadRMSNorm


def cases() -> tuple[HandWorkedPart, ...]:
    # Mean square (3^2 + 5^2) / 2 = 17, plus eps 8: root 5.
    k = torch.tensor([3.0, 5.0]).reshape(1, 1, 1, 2)
    expected = {"k": torch.tensor([6.0, -2.0]).reshape(1, 1, 1, 2)}
    return (
        HandWorkedPart(
            HeadRMSNorm(streams=("k",), eps=8.0), {"k": k}, expected, {"k": torch.tensor([10.0, -2.0])}
        ),
    )
