from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.step_sizes import ChunkAverage, LonghornStepSize, TanhStepSize, TTTStepSize


def cases() -> tuple[HandWorkedPart, ...]:
    return (
        *_sigmoid_rate(),
        *_chunk_average(),
        *_tanh_step_size(),
        *_low_rank_step_size(),
    )


def _sigmoid_rate() -> tuple[HandWorkedPart, ...]:
    # x = 2: logits 0.5*2 + ln 3 - 1 = ln 3 and -1.5*2 + 3 - ln 3 = -ln 3, sigmoids 3/4 and 1/4, times 0.8
    #     over K = 5.
    log3 = 1.0986122886681098
    params = {"weight": torch.tensor([[0.5], [-1.5]]), "bias": torch.tensor([log3 - 1, 3 - log3])}
    streams = {"x": torch.tensor([[[2.0]]]), "k": torch.tensor([[[[2.0, 3.0, 4.0, 5.0, 6.0]]]])}
    return (
        HandWorkedPart(TTTStepSize(base=0.8), streams, {"step_size": torch.tensor([[[0.12, 0.04]]])}, params),
    )


def _chunk_average() -> tuple[HandWorkedPart, ...]:
    # Positions 2, 3, 4 are places 2, 0, 1 of chunks of 3: 1/3 - 0.5 < 0 gives 0, 1 + 0.25, 1/2 - 0.125.
    params = {"offset": torch.tensor([[0.25], [-0.125], [-0.5]])}
    expected = {"read_step": torch.tensor([0.0, 1.25, 0.375]).reshape(1, 3, 1)}
    return (HandWorkedPart(ChunkAverage(chunk=3), {"position": torch.tensor([[2, 3, 4]])}, expected, params),)


def _tanh_step_size() -> tuple[HandWorkedPart, ...]:
    # x has 4 channels that sum up to 2 ln 3: tanh(ln 3) = (9 - 1) / (9 + 1) = 0.8.
    params = {"weight": torch.tensor([[1.0, 1.0, 2.0, 0.5]])}
    x = 1.0986122886681098 * torch.tensor([[[0.25, 0.5, 0.5, 0.5]]])
    return (HandWorkedPart(TanhStepSize(), {"x": x}, {"step_size": torch.tensor([[[1.8]]])}, params),)


def _low_rank_step_size() -> tuple[HandWorkedPart, ...]:
    # Values 2 and 3 go down to 4*2 - 2*3 = 2, up to (0.5, -1), plus bias (ln 3 - 0.5, 1): sigmoids 3/4
    # and 1/2.
    params = {
        "down": torch.tensor([[4.0, -2.0]]).reshape(1, 2, 1),
        "up": torch.tensor([[0.25], [-0.5]]),
        "bias": torch.tensor([1.0986122886681098 - 0.5, 1.0]),
    }
    v = torch.tensor([2.0, 3.0]).reshape(1, 1, 2, 1)
    return (
        HandWorkedPart(
            LonghornStepSize(rank=1), {"v": v}, {"step_size": torch.tensor([[[0.75, 0.5]]])}, params
        ),
    )
