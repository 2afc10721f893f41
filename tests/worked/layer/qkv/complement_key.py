from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.complement_key import ComplementKey


def cases() -> tuple[HandWorkedPart, ...]:
    # 1 - 1/4 and 1 - 2/5.
    log_decay = torch.log(torch.tensor([0.25, 0.4])).reshape(1, 1, 1, 2)
    streams = {"k": torch.full((1, 1, 1, 2), 9.0), "log_decay": log_decay}
    return (HandWorkedPart(ComplementKey(), streams, {"k": torch.tensor([0.75, 0.6]).reshape(1, 1, 1, 2)}),)
