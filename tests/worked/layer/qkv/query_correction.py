from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.query_correction import QueryCorrection


def cases() -> tuple[HandWorkedPart, ...]:
    # Two queries share one key: (1, 0) - 0.5 * (4, 6) and (5, 7) - 2 * (4, 6).
    streams = {
        "q": torch.tensor([[1.0, 0.0], [5.0, 7.0]]).reshape(1, 1, 2, 2),
        "k": torch.tensor([4.0, 6.0]).reshape(1, 1, 1, 2),
    }
    expected = {"q": torch.tensor([[-1.0, -3.0], [-3.0, -5.0]]).reshape(1, 1, 2, 2)}
    return (HandWorkedPart(QueryCorrection(), streams, expected, {"strength": torch.tensor([0.5, 2.0])}),)
