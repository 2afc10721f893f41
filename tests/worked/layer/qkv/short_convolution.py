from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.short_convolution import ShortConvolution


def cases() -> tuple[HandWorkedPart, ...]:
    # Width 3, weights (2, -1, 3) from the oldest to the newest, bias 0.5. Past tokens 4, 5, then 6, 7: 2*4 -
    # 5 + 3*6 + 0.5 = 21.5 and 2*5 - 6 + 3*7 + 0.5 = 25.5.
    x = torch.tensor([4.0, 5.0, 6.0, 7.0]).reshape(1, 4, 1, 1)
    params = {"v": torch.tensor([2.0, -1.0, 3.0]).reshape(3, 1, 1), "v_bias": torch.tensor([[0.5]])}
    expected = {"v": torch.tensor([21.5, 25.5]).reshape(1, 2, 1, 1)}
    return (
        HandWorkedPart(
            ShortConvolution(width=3, streams=("v",), silu=False, bias=True), {"v": x}, expected, params
        ),
    )
