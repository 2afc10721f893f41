from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.output.low_rank_gate import LowRankGate


def cases() -> tuple[HandWorkedPart, ...]:
    # 2 goes down to ln 3, whose sigmoid is 3/4, up to (1.5, -3); times (2, 5).
    params = {"down": torch.tensor([[1.0986122886681098 / 2]]), "up": torch.tensor([[[2.0], [-4.0]]])}
    streams = {"x_gate": torch.tensor([[[2.0]]]), "y": torch.tensor([2.0, 5.0]).reshape(1, 1, 1, 2)}
    return (
        HandWorkedPart(
            LowRankGate(rank=1), streams, {"y": torch.tensor([3.0, -15.0]).reshape(1, 1, 1, 2)}, params
        ),
    )
