from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.head_bias import HeadBias


def cases() -> tuple[HandWorkedPart, ...]:
    # Two heads share one query: (2, 3) + (0.5, 4) and (2, 3) + (-1, 2); each has a key: (5, 7) + (3,
    #     0.25) and (6, 9) - (2, 4).
    streams = {
        "q": torch.tensor([2.0, 3.0]).reshape(1, 1, 1, 2),
        "k": torch.tensor([[5.0, 7.0], [6.0, 9.0]]).reshape(1, 1, 2, 2),
    }
    params = {
        "q": torch.tensor([[0.5, 4.0], [-1.0, 2.0]]),
        "k": torch.tensor([[3.0, 0.25], [-2.0, -4.0]]),
    }
    expected = {
        "q": torch.tensor([[2.5, 7.0], [1.0, 5.0]]).reshape(1, 1, 2, 2),
        "k": torch.tensor([[8.0, 7.25], [4.0, 5.0]]).reshape(1, 1, 2, 2),
    }
    return (HandWorkedPart(HeadBias(), streams, expected, params),)
