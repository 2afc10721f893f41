from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.keys import (
    GatedKey,
    ProjectedSlope,
    RWKV7EraseKey,
    ScaledReadKey,
    TransportKey,
    UnitReadKey,
)


def cases() -> tuple[HandWorkedPart, ...]:
    return (
        *_gated_key(),
        *_scaled_read_key(),
        *_unit_read_key(),
        *_low_rank_erase_key(),
        *_transport_key(),
        *_projected_slope(),
    )


def _gated_key() -> tuple[HandWorkedPart, ...]:
    # x = 2: W x = (ln 3, -ln 3), sigmoids 3/4 and 1/4; two heads of the memory share the key (8, -4), the
    #     second with W x = (-ln 3, 0).
    log3 = 1.0986122886681098
    weight = torch.tensor([[[log3], [-log3]], [[-log3], [0.0]]]) / 2
    streams = {"x": torch.tensor([[[2.0]]]), "k": torch.tensor([8.0, -4.0]).reshape(1, 1, 1, 2)}
    expected = torch.tensor([[6.0, -1.0], [2.0, -2.0]]).reshape(1, 1, 2, 2)
    return (HandWorkedPart(GatedKey("erase_key"), streams, {"erase_key": expected}, {"weight": weight}),)


def _scaled_read_key() -> tuple[HandWorkedPart, ...]:
    # sigmoid(ln 3) = 3/4, sigmoid(-ln 3) = 1/4; both heads of the memory share the one key head.
    log3 = 1.0986122886681098
    k = torch.tensor([8.0, -4.0]).reshape(1, 1, 1, 2)
    expected = torch.tensor([[6.0, -3.0], [2.0, -1.0]]).reshape(1, 1, 2, 2)
    return (
        HandWorkedPart(
            ScaledReadKey(), {"k": k}, {"read_key": expected}, {"share": torch.tensor([log3, -log3])}
        ),
    )


def _unit_read_key() -> tuple[HandWorkedPart, ...]:
    # (6, -2) * (0.5, 2) = (3, -4), of norm 5.
    streams = {"k": torch.tensor([6.0, -2.0]).reshape(1, 1, 1, 2)}
    return (
        HandWorkedPart(
            UnitReadKey(),
            streams,
            {"read_key": torch.tensor([0.6, -0.8]).reshape(1, 1, 1, 2)},
            {"gain": torch.tensor([[0.5, 2.0]])},
        ),
    )


def _low_rank_erase_key() -> tuple[HandWorkedPart, ...]:
    # 2 goes down to 3, up to (0.75, -1.5), plus bias (ln 3 - 0.75, 1.5): sigmoids 3/4 and 1/2, times the
    # read key (8, -6).
    params = {
        "down": torch.tensor([[1.5]]),
        "up": torch.tensor([[[0.25], [-0.5]]]),
        "bias": torch.tensor([[1.0986122886681098 - 0.75, 1.5]]),
    }
    streams = {
        "x_erase": torch.tensor([[[2.0]]]),
        "read_key": torch.tensor([8.0, -6.0]).reshape(1, 1, 1, 2),
    }
    expected = {
        "erase_key": torch.tensor([6.0, -3.0]).reshape(1, 1, 1, 2),
        "learning_rate": torch.tensor([0.75, 0.5]).reshape(1, 1, 1, 2),
    }
    return (HandWorkedPart(RWKV7EraseKey(rank=1), streams, expected, params),)


def _transport_key() -> tuple[HandWorkedPart, ...]:
    # x = 2 goes down to 3 and up to (6, -4.5).
    params = {"down": torch.tensor([[1.5]]), "up": torch.tensor([[[2.0], [-1.5]]])}
    expected = torch.tensor([6.0, -4.5]).reshape(1, 1, 1, 2)
    return (
        HandWorkedPart(
            TransportKey(rank=1, unit=False),
            {"x": torch.tensor([[[2.0]]])},
            {"transport_key": expected},
            params,
        ),
    )


def _projected_slope() -> tuple[HandWorkedPart, ...]:
    # x = (2, 3): one head, two channels: 0.5*2 - 3 = -2 and 4*2 + 0.5*3 = 9.5.
    weight = torch.tensor([[[0.5, -1.0], [4.0, 0.5]]])
    return (
        HandWorkedPart(
            ProjectedSlope(),
            {"x": torch.tensor([[[2.0, 3.0]]])},
            {"slope": torch.tensor([[[[-2.0, 9.5]]]])},
            {"weight": weight},
        ),
    )
