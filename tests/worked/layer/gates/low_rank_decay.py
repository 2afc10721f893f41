from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.low_rank_decay import LowRankDecay


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2 goes down to 3, up to (0.75, -1.5), plus bias (ln 3 - 0.75, 1.5): logits ln 3 and 0, sigmoids
    # 3/4 and 1/2; over 4.
    params = {
        "down": torch.tensor([[1.5]]),
        "up": torch.tensor([[[0.25], [-0.5]]]),
        "bias": torch.tensor([[1.0986122886681098 - 0.75, 1.5]]),
    }
    expected = torch.tensor([-0.2876820724517809 / 4, -0.6931471805599453 / 4]).reshape(1, 1, 1, 2)
    return (
        HandWorkedPart(
            LowRankDecay(rank=1, temperature=4.0),
            {"x": torch.tensor([[[2.0]]])},
            {"log_decay": expected},
            params,
        ),
    )
