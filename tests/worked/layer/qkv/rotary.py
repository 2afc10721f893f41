from __future__ import annotations

import math

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.rotary import AngleRotary, Rotary, SelectiveAngle


def cases() -> tuple[HandWorkedPart, ...]:
    return (
        *_rotary(),
        *_selective_angle(),
        *_angle_rotary(),
    )


def _rotary() -> tuple[HandWorkedPart, ...]:
    # K = 4, base 4: rates 1 and 1/2. At position 8, which is 3 after a period of 5, channels (0, 2) turn by
    # 3, channels (1, 3) by 1.5; cos 3 = -0.9899924966, sin 3 = 0.1411200081, cos 1.5 = 0.0707372017, sin 1.5
    # = 0.9974949866. (2, 5) and (3, 4) become (2 cos 3 - 5 sin 3, 5 cos 3 + 2 sin 3) and (3 cos 1.5 - 4 sin
    # 1.5, 4 cos 1.5 + 3 sin 1.5).
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


def _selective_angle() -> tuple[HandWorkedPart, ...]:
    # x = 2, W x = ln 3 / 2: tanh 1/2; dt = 3 and 0.5: what the token adds is 1.5 pi and 0.25 pi.
    streams = {"x": torch.tensor([[[2.0]]]), "time_step": torch.tensor([[[3.0, 0.5]]])}
    expected = {"angle": math.pi * torch.tensor([1.5, 0.25]).reshape(1, 1, 2, 1)}
    return (
        HandWorkedPart(
            SelectiveAngle(), streams, expected, {"weight": torch.tensor([[1.0986122886681098 / 4]])}
        ),
    )


def _angle_rotary() -> tuple[HandWorkedPart, ...]:
    # An eighth of a turn takes (3, 5) to ((3 - 5) r, (5 + 3) r) and (2, -4) to (6 r, -2 r), r =
    # sqrt(1/2); the third channel stays.
    r = 0.5**0.5
    streams = {
        "q": torch.tensor([3.0, 5.0, 7.0]).reshape(1, 1, 1, 3),
        "k": torch.tensor([2.0, -4.0, 6.0]).reshape(1, 1, 1, 3),
        "angle": torch.full((1, 1, 1, 1), 0.7853981633974483),
    }
    expected = {
        "q": torch.tensor([-2 * r, 8 * r, 7.0]).reshape(1, 1, 1, 3),
        "k": torch.tensor([6 * r, -2 * r, 6.0]).reshape(1, 1, 1, 3),
    }
    return (HandWorkedPart(AngleRotary(), streams, expected),)
