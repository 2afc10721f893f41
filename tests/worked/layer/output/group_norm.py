from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.output.group_norm import GroupNorm


def cases() -> tuple[HandWorkedPart, ...]:
    # Mean 5, deviations -4 and 4, variance 16 plus eps 9: root 5. -0.8 * 10 + 0.5 and 0.8 * 4 - 2.
    params = {"gain": torch.tensor([[10.0, 4.0]]), "bias": torch.tensor([[0.5, -2.0]])}
    streams = {"y": torch.tensor([1.0, 9.0]).reshape(1, 1, 1, 2)}
    return (
        HandWorkedPart(
            GroupNorm(eps=9.0), streams, {"y": torch.tensor([-7.5, 1.2]).reshape(1, 1, 1, 2)}, params
        ),
    )
