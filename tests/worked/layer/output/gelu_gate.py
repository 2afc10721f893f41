from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.output.gelu_gate import GeluGate


def cases() -> tuple[HandWorkedPart, ...]:
    # x = 2: logits 2 and -2. gelu(z) = z / 2 (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))), and 2 + 0.35772
    # = 2.35772 times 0.7978845608 is 1.8811883866, of tanh 0.9545976941: 1.9545976941 and -0.0454023059.
    streams = {"x": torch.tensor([[[2.0]]]), "y": torch.tensor([8.0, -4.0]).reshape(1, 1, 1, 2)}
    params = {"weight": torch.tensor([[[1.0], [-1.0]]])}
    expected = torch.tensor([8 * 1.954597694087775, 4 * 0.045402305912225]).reshape(1, 1, 1, 2)
    return (HandWorkedPart(GeluGate(), streams, {"y": expected}, params),)
