from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.recurrent_gate import RecurrentGate


def cases() -> tuple[HandWorkedPart, ...]:
    # Blocks of one head. v = 2: recurrence logits 0.5*2 - 1 = 0 and 2*2 - 4 + ln 3 = ln 3, gates 1/2 and 3/4;
    # softplus(p) = ln 2 / 8 and ln(5/3) / 12 make dt = 8 * 1/2 * ln 2 / 8 ... = ln(5/4) and ln(5/3), so a =
    # 4/5 and 3/5 and sqrt(1 - a^2) = 3/5 and 4/5. Input gates of logits 0 and ln 3: 1/2 and 3/4. v = 2 * 3/5
    # * 1/2 = 0.6 and 2 * 4/5 * 3/4 = 1.2; whole at position 0: 1 and 1.5.
    log3 = 1.0986122886681098
    decay = torch.log(
        torch.expm1(torch.log(torch.tensor([5 / 4, 5 / 3], dtype=torch.float64)) / torch.tensor([4.0, 6.0]))
    ).double()
    params = {
        "recurrence_weight": torch.tensor([0.5, 2.0]).reshape(2, 1, 1),
        "recurrence_bias": torch.tensor([[-1.0], [log3 - 4]]),
        "input_weight": torch.tensor([1.5, -1.0]).reshape(2, 1, 1),
        "input_bias": torch.tensor([[-3.0], [log3 + 2]]),
        "decay": decay,
    }
    streams = {"v": torch.full((1, 2, 2, 1), 2.0), "position": torch.tensor([[0, 1]])}
    expected = {
        "v": torch.tensor([[1.0, 1.5], [0.6, 1.2]]).reshape(1, 2, 2, 1),
        "time_step": torch.log(torch.tensor([5 / 4, 5 / 3])).expand(1, 2, 2),
    }
    return (HandWorkedPart(RecurrentGate(block=1), streams, expected, params),)
