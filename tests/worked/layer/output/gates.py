from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.output.gates import LowRankOutputGate, OutputGate


def cases() -> tuple[HandWorkedPart, ...]:
    return (
        *_output_gate(),
        *_gelu_gate(),
        *_low_rank_gate(),
    )


def _output_gate() -> tuple[HandWorkedPart, ...]:
    # x = 2: logits ln 3 and -ln 3, times their sigmoids 3/4 and 1/4.
    log3 = 1.0986122886681098
    streams = {"x": torch.tensor([[[2.0]]]), "y": torch.tensor([8.0, -4.0]).reshape(1, 1, 1, 2)}
    params = {"weight": torch.tensor([[[log3 / 2], [-log3 / 2]]])}
    return (
        HandWorkedPart(
            OutputGate(), streams, {"y": torch.tensor([6 * log3, log3]).reshape(1, 1, 1, 2)}, params
        ),
    )


def _gelu_gate() -> tuple[HandWorkedPart, ...]:
    # x = 2: logits 2 and -2. gelu(z) = z / 2 (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))), and 2 + 0.35772 =
    # 2.35772 times 0.7978845608 is 1.8811883866, of tanh 0.9545976941: 1.9545976941 and -0.0454023059.
    streams = {"x": torch.tensor([[[2.0]]]), "y": torch.tensor([8.0, -4.0]).reshape(1, 1, 1, 2)}
    params = {"weight": torch.tensor([[[1.0], [-1.0]]])}
    expected = torch.tensor([8 * 1.954597694087775, 4 * 0.045402305912225]).reshape(1, 1, 1, 2)
    return (HandWorkedPart(OutputGate("gelu"), streams, {"y": expected}, params),)


def _low_rank_gate() -> tuple[HandWorkedPart, ...]:
    # 2 goes down to ln 3, whose sigmoid is 3/4, up to (1.5, -3); times (2, 5).
    params = {"down": torch.tensor([[1.0986122886681098 / 2]]), "up": torch.tensor([[[2.0], [-4.0]]])}
    streams = {"x_gate": torch.tensor([[[2.0]]]), "y": torch.tensor([2.0, 5.0]).reshape(1, 1, 1, 2)}
    return (
        HandWorkedPart(
            LowRankOutputGate(rank=1), streams, {"y": torch.tensor([3.0, -15.0]).reshape(1, 1, 1, 2)}, params
        ),
    )
