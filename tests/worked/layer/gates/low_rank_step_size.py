from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.low_rank_step_size import LowRankStepSize


def cases() -> tuple[HandWorkedPart, ...]:
    # Values 2 and 3 go down to 4*2 - 2*3 = 2, up to (0.5, -1), plus bias (ln 3 - 0.5, 1): sigmoids 3/4
    # and 1/2.
    params = {
        "down": torch.tensor([[4.0, -2.0]]).reshape(1, 2, 1),
        "up": torch.tensor([[0.25], [-0.5]]),
        "bias": torch.tensor([1.0986122886681098 - 0.5, 1.0]),
    }
    v = torch.tensor([2.0, 3.0]).reshape(1, 1, 2, 1)
    return (
        HandWorkedPart(
            LowRankStepSize(rank=1), {"v": v}, {"step_size": torch.tensor([[[0.75, 0.5]]])}, params
        ),
    )
