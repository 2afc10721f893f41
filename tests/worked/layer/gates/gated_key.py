from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.gated_key import GatedKey


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2: W x = (ln 3, -ln 3), sigmoids 3/4 and 1/4; two heads of the memory share the key (8, -4), the
    #     second with W x = (-ln 3, 0).
    log3 = 1.0986122886681098
    weight = torch.tensor([[[log3], [-log3]], [[-log3], [0.0]]]) / 2
    streams = {"x": torch.tensor([[[2.0]]]), "k": torch.tensor([8.0, -4.0]).reshape(1, 1, 1, 2)}
    expected = torch.tensor([[6.0, -1.0], [2.0, -2.0]]).reshape(1, 1, 2, 2)
    return (HandWorkedPart(GatedKey("erase_key"), streams, {"erase_key": expected}, {"weight": weight}),)
