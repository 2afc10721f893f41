from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.qkv.replacements import ComplementKey, Ones, QueryKeyFromValue, SharedKey


def cases() -> tuple[HandWorkedPart, ...]:
    return (
        *_ones(),
        *_shared_key(),
        *_complement_key(),
        *_read_off_value(),
    )


def _ones() -> tuple[HandWorkedPart, ...]:
    q = torch.tensor([7.0, -3.0]).reshape(1, 1, 1, 2)
    return (
        HandWorkedPart(Ones(streams=("q",)), {"q": q}, {"q": torch.tensor([1.0, 1.0]).reshape(1, 1, 1, 2)}),
    )


def _shared_key() -> tuple[HandWorkedPart, ...]:
    q = torch.tensor([2.0, -3.0]).reshape(1, 1, 1, 2)
    return (HandWorkedPart(SharedKey(), {"q": q, "k": torch.full((1, 1, 1, 2), 9.0)}, {"k": q}),)


def _complement_key() -> tuple[HandWorkedPart, ...]:
    # 1 - 1/4 and 1 - 2/5.
    log_decay = torch.log(torch.tensor([0.25, 0.4])).reshape(1, 1, 1, 2)
    streams = {"k": torch.full((1, 1, 1, 2), 9.0), "log_decay": log_decay}
    return (HandWorkedPart(ComplementKey(), streams, {"k": torch.tensor([0.75, 0.6]).reshape(1, 1, 1, 2)}),)


def _read_off_value() -> tuple[HandWorkedPart, ...]:
    # Values 2 and 3 of two heads: q = (5*2 - 3, 4*3) = (7, 12), k = (0.5*2 + 2*3, 3*2 - 7*3) = (7, -15).
    v = torch.tensor([2.0, 3.0]).reshape(1, 1, 2, 1)
    params = {
        "q": torch.tensor([[5.0, -1.0], [0.0, 4.0]]).reshape(1, 2, 2, 1),
        "k": torch.tensor([[0.5, 2.0], [3.0, -7.0]]).reshape(1, 2, 2, 1),
    }
    expected = {
        "q": torch.tensor([7.0, 12.0]).reshape(1, 1, 1, 2),
        "k": torch.tensor([7.0, -15.0]).reshape(1, 1, 1, 2),
    }
    return (HandWorkedPart(QueryKeyFromValue(), {"v": v}, expected, params),)
