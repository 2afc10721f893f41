from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.output.current_token_bonus import CurrentTokenBonus


def cases() -> tuple[HandWorkedPart, ...]:
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
