from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.ridges import ConstantRidge, LearnedRidge


def cases() -> tuple[HandWorkedPart, ...]:
    return (
        *_constant_ridge(),
        *_learned_ridge(),
    )


def _constant_ridge() -> tuple[HandWorkedPart, ...]:
    # The value itself, without axes.
    return (
        HandWorkedPart(ConstantRidge(value=0.3), {"x": torch.ones(1, 1, 2)}, {"ridge": torch.tensor(0.3)}),
    )


def _learned_ridge() -> tuple[HandWorkedPart, ...]:
    # softplus(ln(e - 1)) = 1 and softplus(0) = ln 2, plus 0.25.
    weight = torch.tensor([[0.5413248546129181, 0.0]])
    return (
        HandWorkedPart(
            LearnedRidge(), {}, {"ridge": torch.tensor([[1.25, 0.9431471805599453]])}, {"weight": weight}
        ),
    )
