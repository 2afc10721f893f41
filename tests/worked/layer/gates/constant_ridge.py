from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.constant_ridge import ConstantRidge


def cases() -> tuple[HandWorkedPart, ...]:
    # The value itself, without axes.
    return (
        HandWorkedPart(ConstantRidge(value=0.3), {"x": torch.ones(1, 1, 2)}, {"ridge": torch.tensor(0.3)}),
    )
