from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.output.skip import Skip


def cases() -> tuple[HandWorkedPart, ...]:
    # Two heads share one value: (2, 3) + 0.5 * (4, 6) and (5, 7) - 2 * (4, 6).
    streams = {
        "y": torch.tensor([[2.0, 3.0], [5.0, 7.0]]).reshape(1, 1, 2, 2),
        "input": torch.tensor([4.0, 6.0]).reshape(1, 1, 1, 2),
    }
    expected = {"y": torch.tensor([[4.0, 6.0], [-3.0, -5.0]]).reshape(1, 1, 2, 2)}
    return (HandWorkedPart(Skip(of="input"), streams, expected, {"strength": torch.tensor([0.5, -2.0])}),)
