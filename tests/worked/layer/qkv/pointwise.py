from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.pointwise import HeadBias, ProjectionBias, QueryCorrection, RateScaledKey, RingGain, Silu


def cases() -> tuple[HandWorkedPart, ...]:
    return (
        *_silu(),
        *_projection_bias(),
        *_head_bias(),
        *_ring_gain(),
        *_query_correction(),
        *_rate_scaled_key(),
    )


def _silu() -> tuple[HandWorkedPart, ...]:
    # sigmoid(ln 3) = 3/4 and sigmoid(-ln 3) = 1/4.
    log3 = 1.0986122886681098
    q, expected = (
        torch.tensor([log3, -log3]).reshape(1, 1, 1, 2),
        torch.tensor([0.75 * log3, -0.25 * log3]).reshape(1, 1, 1, 2),
    )
    return (HandWorkedPart(Silu(streams=("q",)), {"q": q}, {"q": expected}),)


def _projection_bias() -> tuple[HandWorkedPart, ...]:
    # Two heads of values: (2, 3) + (0.5, -4) and (5, 7) + (-1, 2).
    v, expected, bias = (
        torch.tensor(numbers).reshape(1, 1, 2, 2)
        for numbers in ([2.0, 3.0, 5.0, 7.0], [2.5, -1.0, 4.0, 9.0], [0.5, -4.0, -1.0, 2.0])
    )
    return (HandWorkedPart(ProjectionBias(streams=("v",)), {"v": v}, {"v": expected}, {"v": bias[0, 0]}),)


def _head_bias() -> tuple[HandWorkedPart, ...]:
    # Two heads share one query: (2, 3) + (0.5, 4) and (2, 3) + (-1, 2); each has a key: (5, 7) + (3,
    #     0.25) and (6, 9) - (2, 4).
    streams = {
        "q": torch.tensor([2.0, 3.0]).reshape(1, 1, 1, 2),
        "k": torch.tensor([[5.0, 7.0], [6.0, 9.0]]).reshape(1, 1, 2, 2),
    }
    params = {
        "q": torch.tensor([[0.5, 4.0], [-1.0, 2.0]]),
        "k": torch.tensor([[3.0, 0.25], [-2.0, -4.0]]),
    }
    expected = {
        "q": torch.tensor([[2.5, 7.0], [1.0, 5.0]]).reshape(1, 1, 2, 2),
        "k": torch.tensor([[8.0, 7.25], [4.0, 5.0]]).reshape(1, 1, 2, 2),
    }
    return (HandWorkedPart(HeadBias(), streams, expected, params),)


def _ring_gain() -> tuple[HandWorkedPart, ...]:
    # exp(ln 3) * (2, 5).
    v, expected = (
        torch.tensor([2.0, 5.0]).reshape(1, 1, 1, 2),
        torch.tensor([6.0, 15.0]).reshape(1, 1, 1, 2),
    )
    return (
        HandWorkedPart(RingGain(), {"v": v}, {"v": expected}, {"gain": torch.tensor([1.0986122886681098])}),
    )


def _query_correction() -> tuple[HandWorkedPart, ...]:
    # Two queries share one key: (1, 0) - 0.5 * (4, 6) and (5, 7) - 2 * (4, 6).
    streams = {
        "q": torch.tensor([[1.0, 0.0], [5.0, 7.0]]).reshape(1, 1, 2, 2),
        "k": torch.tensor([4.0, 6.0]).reshape(1, 1, 1, 2),
    }
    expected = {"q": torch.tensor([[-1.0, -3.0], [-3.0, -5.0]]).reshape(1, 1, 2, 2)}
    return (HandWorkedPart(QueryCorrection(), streams, expected, {"strength": torch.tensor([0.5, 2.0])}),)


def _rate_scaled_key() -> tuple[HandWorkedPart, ...]:
    # (8, 4) * (1 + (0.25 - 1) * 0.5, 1 + (0.5 - 1) * 3) = (8 * 0.625, 4 * -0.5).
    streams = {
        "k": torch.tensor([8.0, 4.0]).reshape(1, 1, 1, 2),
        "learning_rate": torch.tensor([0.25, 0.5]).reshape(1, 1, 1, 2),
    }
    return (
        HandWorkedPart(
            RateScaledKey(),
            streams,
            {"k": torch.tensor([5.0, -2.0]).reshape(1, 1, 1, 2)},
            {"strength": torch.tensor([[0.5, 3.0]])},
        ),
    )
