from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.low_rank_erase_key import LowRankEraseKey


def cases() -> tuple[HandWorkedPart, ...]:
    # 2 goes down to 3, up to (0.75, -1.5), plus bias (ln 3 - 0.75, 1.5): sigmoids 3/4 and 1/2, times the
    # read key (8, -6).
    params = {
        "down": torch.tensor([[1.5]]),
        "up": torch.tensor([[[0.25], [-0.5]]]),
        "bias": torch.tensor([[1.0986122886681098 - 0.75, 1.5]]),
    }
    streams = {
        "x_erase": torch.tensor([[[2.0]]]),
        "read_key": torch.tensor([8.0, -6.0]).reshape(1, 1, 1, 2),
    }
    expected = {
        "erase_key": torch.tensor([6.0, -3.0]).reshape(1, 1, 1, 2),
        "learning_rate": torch.tensor([0.75, 0.5]).reshape(1, 1, 1, 2),
    }
    return (HandWorkedPart(LowRankEraseKey(rank=1), streams, expected, params),)
