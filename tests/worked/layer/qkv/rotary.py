from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.rotary import Rotary


def cases() -> tuple[HandWorkedPart, ...]:
    # K = 4, base 4: rates 1 and 1/2. At position 8, which is 3 after a period of 5, channels (0, 2) turn
    # by 3, channels (1, 3) by 1.5; cos 3 = -0.9899924966, sin 3 = 0.1411200081, cos 1.5 = 0.0707372017,
    # sin 1.5 = 0.9974949866. (2, 5) and (3, 4) become (2 cos 3 - 5 sin 3, 5 cos 3 + 2 sin 3) and (3 cos
    # 1.5 - 4 sin 1.5, 4 cos 1.5 + 3 sin 1.5).
    q = torch.tensor([2.0, 3.0, 5.0, 4.0]).reshape(1, 1, 1, 4)
    turned = [
        2 * -0.9899924966004454 - 5 * 0.1411200080598672,
        3 * 0.0707372016677029 - 4 * 0.9974949866040544,
        5 * -0.9899924966004454 + 2 * 0.1411200080598672,
        4 * 0.0707372016677029 + 3 * 0.9974949866040544,
    ]
    return (
        HandWorkedPart(
            Rotary(base=4.0, streams=("q",), period=5),
            {"q": q, "position": torch.tensor([[8]])},
            {"q": torch.tensor(turned).reshape(1, 1, 1, 4)},
        ),
    )
