from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.output.head_layer_norm import HeadLayerNorm


def cases() -> tuple[HandWorkedPart, ...]:
    # Heads (2, 8) and (9, 1): less their means (-3, 3) and (4, -4), variances 9 and 16, plus eps 16:
    #     divided by 5 and sqrt(32).
    y = torch.tensor([[2.0, 8.0], [9.0, 1.0]]).reshape(1, 1, 2, 2)
    params = {
        "gain": torch.tensor([[5.0, 10.0], [32**0.5, -(32**0.5)]]),
        "bias": torch.tensor([[0.5, -2.0], [3.0, 7.0]]),
    }
    expected = torch.tensor([[-2.5, 4.0], [7.0, 11.0]]).reshape(1, 1, 2, 2)
    return (HandWorkedPart(HeadLayerNorm(eps=16.0), {"y": y}, {"y": expected}, params),)
