from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.norms import HeadRMSNorm, UnitNorm


def cases() -> tuple[HandWorkedPart, ...]:
    return (
        *_unit_norm(),
        *_head_rms_norm(),
    )


def _unit_norm() -> tuple[HandWorkedPart, ...]:
    # sqrt(2^2 + 3^2 + 6^2 + 15) = 8.
    x = torch.tensor([2.0, 3.0, 6.0]).reshape(1, 1, 1, 3)
    return (
        HandWorkedPart(
            UnitNorm(streams=("k",), eps=15.0),
            {"k": x},
            {"k": torch.tensor([0.25, 0.375, 0.75]).reshape(1, 1, 1, 3)},
        ),
    )


def _head_rms_norm() -> tuple[HandWorkedPart, ...]:
    # Mean square (3^2 + 5^2) / 2 = 17, plus eps 8: root 5.
    k = torch.tensor([3.0, 5.0]).reshape(1, 1, 1, 2)
    expected = {"k": torch.tensor([6.0, -2.0]).reshape(1, 1, 1, 2)}
    return (
        HandWorkedPart(
            HeadRMSNorm(streams=("k",), eps=8.0), {"k": k}, expected, {"k": torch.tensor([10.0, -2.0])}
        ),
    )
