from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.ring import RingDecay, RingPhase


def cases() -> tuple[HandWorkedPart, ...]:
    return (
        *_ring_decay(),
        *_ring_phase(),
    )


def _ring_decay() -> tuple[HandWorkedPart, ...]:
    # Rates ln 2 and ln 3 at each of two tokens.
    params = {"rate": torch.tensor([0.6931471805599453, 1.0986122886681098])}
    return (
        HandWorkedPart(
            RingDecay(),
            {"x": torch.zeros(1, 2, 1)},
            {"log_decay": torch.tensor([-2.0, -3.0]).expand(1, 2, 2)},
            params,
        ),
    )


def _ring_phase() -> tuple[HandWorkedPart, ...]:
    # Angles ln 2 and ln 3 at each of two tokens.
    params = {"angle": torch.tensor([0.6931471805599453, 1.0986122886681098])}
    return (
        HandWorkedPart(
            RingPhase(),
            {"x": torch.zeros(1, 2, 1)},
            {"phase": torch.tensor([2.0, 3.0]).expand(1, 2, 2)},
            params,
        ),
    )
