from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.output.norms import GatedRMSNorm, LayerNorm, RMSNorm


def cases() -> tuple[HandWorkedPart, ...]:
    return (
        *_rms_norm(),
        *_gated_rms_norm(),
        *_gated_rms_norm_of_groups(),
        *_layer_norm(),
        *_head_layer_norm(),
        *_group_norm(),
    )


def _rms_norm() -> tuple[HandWorkedPart, ...]:
    # Over both heads: mean square (1 + 9 + 25 + 49) / 4 = 21, plus eps 4: root 5.
    y = torch.tensor([[1.0, 3.0], [5.0, 7.0]]).reshape(1, 1, 2, 2)
    gain = torch.tensor([[5.0, 10.0], [2.0, -1.0]])
    expected = torch.tensor([[1.0, 6.0], [2.0, -1.4]]).reshape(1, 1, 2, 2)
    return (HandWorkedPart(RMSNorm(over="all", eps=4.0), {"y": y}, {"y": expected}, {"gain": gain}),)


def _gated_rms_norm() -> tuple[HandWorkedPart, ...]:
    # Mean square (9 + 25) / 2 = 17, plus eps 8: root 5. x = 2 goes down to (3, 1), up to (0.25, ln 3), plus
    # bias (0, ln 3): sigmoids 1/2, 3/4. y = (3/5 * 10 * 1/2, 5/5 * 4 * 3/4) = (3, 3).
    params = {
        "gain": torch.tensor([10.0, 4.0]),
        "down": torch.tensor([[1.5], [0.5]]),
        "bias": torch.tensor([[-0.25, 0.0]]),
        "weight": torch.tensor([[[0.0, 0.25], [1.0986122886681098 / 3, 0.0]]]),
    }
    streams = {"x": torch.tensor([[[2.0]]]), "y": torch.tensor([3.0, 5.0]).reshape(1, 1, 1, 2)}
    return (
        HandWorkedPart(
            GatedRMSNorm(gate="sigmoid", low_rank=True, eps=8.0),
            streams,
            {"y": torch.tensor([3.0, 3.0]).reshape(1, 1, 1, 2)},
            params,
        ),
    )


def _gated_rms_norm_of_groups() -> tuple[HandWorkedPart, ...]:
    # x = ln 3 gives sigmoids 3/4 and 1/4 of the gates x and -x. Two groups of two heads of one channel:
    # (4 * 3/4, 20 * 1/4) = (3, 5), mean square 17 plus eps 8, root 5: 3/5 * 10 and 5/5 * 2;
    # (12 * 1/4, 4/3 * 3/4) = (3, 1), mean square 5 plus eps 8, root sqrt(13): 3 * 13 / 13 and 1 * 26 / 13.
    params = {
        "gain": torch.tensor([[[10.0], [2.0]], [[13**0.5], [2 * 13**0.5]]]),
        "weight": torch.tensor([1.0, -1.0, -1.0, 1.0]).reshape(4, 1, 1),
    }
    y = torch.tensor([4.0, 20.0, 12.0, 4 / 3]).reshape(1, 1, 4, 1)
    return (
        HandWorkedPart(
            GatedRMSNorm("sigmoid", over="group", gate_first=True, eps=8.0),
            {"x": torch.tensor([[[1.0986122886681098]]]), "y": y},
            {"y": torch.tensor([6.0, 2.0, 3.0, 2.0]).reshape(1, 1, 4, 1)},
            params,
        ),
    )


def _layer_norm() -> tuple[HandWorkedPart, ...]:
    # Two heads of two channels, (6, 2) and (3, 5): mean 4, deviations 2, -2, -1, 1 of mean square 5/2;
    # with eps 3.75 the root is
    # 2.5: 0.8, -0.8, -0.4, 0.4, times the gain plus the bias.
    y = torch.tensor([[[[6.0, 2.0], [3.0, 5.0]]]])
    params = {
        "gain": torch.tensor([[2.0, 3.0], [-5.0, 0.5]]),
        "bias": torch.tensor([[0.25, -0.5], [3.0, 2.0]]),
    }
    return (
        HandWorkedPart(
            LayerNorm("all", eps=3.75), {"y": y}, {"y": torch.tensor([[[[1.85, -2.9], [5.0, 2.2]]]])}, params
        ),
    )


def _head_layer_norm() -> tuple[HandWorkedPart, ...]:
    # Heads (2, 8) and (9, 1): less their means (-3, 3) and (4, -4), variances 9 and 16, plus eps 16:
    #     divided by 5 and sqrt(32).
    y = torch.tensor([[2.0, 8.0], [9.0, 1.0]]).reshape(1, 1, 2, 2)
    params = {
        "gain": torch.tensor([[5.0, 10.0], [32**0.5, -(32**0.5)]]),
        "bias": torch.tensor([[0.5, -2.0], [3.0, 7.0]]),
    }
    expected = torch.tensor([[-2.5, 4.0], [7.0, 11.0]]).reshape(1, 1, 2, 2)
    return (HandWorkedPart(LayerNorm(eps=16.0), {"y": y}, {"y": expected}, params),)


def _group_norm() -> tuple[HandWorkedPart, ...]:
    # Mean 5, deviations -4 and 4, variance 16 plus eps 9: root 5. -0.8 * 10 + 0.5 and 0.8 * 4 - 2.
    params = {"gain": torch.tensor([[10.0, 4.0]]), "bias": torch.tensor([[0.5, -2.0]])}
    streams = {"y": torch.tensor([1.0, 9.0]).reshape(1, 1, 1, 2)}
    return (
        HandWorkedPart(
            LayerNorm(eps=9.0, by_depth=True),
            streams,
            {"y": torch.tensor([-7.5, 1.2]).reshape(1, 1, 1, 2)},
            params,
        ),
    )
