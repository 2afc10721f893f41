from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.token_shift import TokenShift


def cases() -> tuple[HandWorkedPart, ...]:
    # Before (4, 8), now (2, 10): (2, 10) + (0.5, 0.25) * (2, -2) and (2, 10) + (0.75, 1.5) * (2, -2).
    streams = {"x": torch.tensor([[[4.0, 8.0], [2.0, 10.0]]])}
    expected = {"x_k": torch.tensor([[[3.0, 9.5]]]), "x_gate": torch.tensor([[[3.5, 7.0]]])}
    return (
        HandWorkedPart(
            TokenShift(of=("k", "gate")),
            streams,
            expected,
            {"share": torch.tensor([[0.5, 0.25], [0.75, 1.5]])},
        ),
    )
