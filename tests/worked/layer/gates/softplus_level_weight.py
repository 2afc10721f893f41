from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.softplus_level_weight import SoftplusLevelWeight


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2, one head, two levels: 3 * (ln(e - 1) / 6) * 2 = ln(e - 1) and 0.5 * 0 = 0: softplus 1 and ln
    #     2.
    params = {
        "weight": torch.tensor([[[0.5413248546129181 / 6], [0.0]]]),
        "strength": torch.tensor([[3.0, 0.5]]),
    }
    expected = {"level_weight": torch.tensor([1.0, 0.6931471805599453]).reshape(1, 1, 1, 2)}
    return (HandWorkedPart(SoftplusLevelWeight(), {"x": torch.tensor([[[2.0]]])}, expected, params),)
