from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.output.skips import CurrentTokenBonus, Skip


def cases() -> tuple[HandWorkedPart, ...]:
    return (
        *_skip(),
        *_current_token_bonus(),
    )


def _skip() -> tuple[HandWorkedPart, ...]:
    # Two heads share one value: (2, 3) + 0.5 * (4, 6) and (5, 7) - 2 * (4, 6).
    streams = {
        "y": torch.tensor([[2.0, 3.0], [5.0, 7.0]]).reshape(1, 1, 2, 2),
        "input": torch.tensor([4.0, 6.0]).reshape(1, 1, 1, 2),
    }
    expected = {"y": torch.tensor([[4.0, 6.0], [-3.0, -5.0]]).reshape(1, 1, 2, 2)}
    return (HandWorkedPart(Skip(of="input"), streams, expected, {"strength": torch.tensor([0.5, -2.0])}),)


def _current_token_bonus() -> tuple[HandWorkedPart, ...]:
    # 2 * 0.5 * 3 + 4 * 0.25 * -1 = 2; (7, 1, 6) + 2 * (1.5, -2, 4).
    q, k, v, y = (
        torch.tensor(row).reshape(1, 1, 1, -1)
        for row in ([2.0, 4.0], [3.0, -1.0], [1.5, -2.0, 4.0], [7.0, 1.0, 6.0])
    )
    expected = {"y": torch.tensor([10.0, -3.0, 14.0]).reshape(1, 1, 1, 3)}
    return (
        HandWorkedPart(
            CurrentTokenBonus(),
            {"q": q, "k": k, "v": v, "y": y},
            expected,
            {"strength": torch.tensor([[0.5, 0.25]])},
        ),
    )
