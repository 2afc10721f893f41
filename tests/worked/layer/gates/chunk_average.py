from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.chunk_average import ChunkAverage


def cases() -> tuple[HandWorkedPart, ...]:
    # Positions 2, 3, 4 are places 2, 0, 1 of chunks of 3: 1/3 - 0.5 < 0 gives 0, 1 + 0.25, 1/2 - 0.125.
    params = {"offset": torch.tensor([[0.25], [-0.125], [-0.5]])}
    expected = {"read_step": torch.tensor([0.0, 1.25, 0.375]).reshape(1, 3, 1)}
    return (HandWorkedPart(ChunkAverage(chunk=3), {"position": torch.tensor([[2, 3, 4]])}, expected, params),)
