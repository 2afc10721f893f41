from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.momentum import CappedDecay, DecayMomentum, SharedMomentumStep


def cases() -> tuple[HandWorkedPart, ...]:
    return (
        *_shared_momentum_step(),
        *_capped_softplus_decay(),
        *_softplus_momentum(),
    )


def _shared_momentum_step() -> tuple[HandWorkedPart, ...]:
    # tan = 1.5 * 2 = 3: sin^2 = 9/10, cos^2 = 1/10; sigmoid(2 * 0) = 1/2 and, for tan = 0.5 * 2 = 1,
    #     sigmoid(ln 3) = 3/4.
    log2, log3, log10 = 0.6931471805599453, 1.0986122886681098, 2.302585092994046
    params = {"weight": torch.tensor([[0.0], [log3 / 2]]), "factor": torch.tensor([log2, log2])}
    streams = {"x": torch.tensor([[[2.0]]]), "step_size": torch.tensor([[[1.5, 0.5]]])}
    expected = {
        "momentum_step": torch.tensor([[[0.45, 0.375]]]),
        "log_cap": torch.tensor([[[-log10, -log2]]]),
    }
    return (HandWorkedPart(SharedMomentumStep(), streams, expected, params),)


def _capped_softplus_decay() -> tuple[HandWorkedPart, ...]:
    # x = 2, W = 0.5, bias -1: softplus(0) = ln 2, times the rate 3, below -0.5.
    log2, log3 = 0.6931471805599453, 1.0986122886681098
    params = {"weight": torch.tensor([[0.5]]), "bias": torch.tensor([-1.0]), "rate": torch.tensor([log3])}
    streams = {"x": torch.tensor([[[2.0]]]), "log_cap": torch.tensor([[[-0.5]]])}
    return (
        HandWorkedPart(CappedDecay(), streams, {"log_decay": torch.tensor([[[-0.5 - 3 * log2]]])}, params),
    )


def _softplus_momentum() -> tuple[HandWorkedPart, ...]:
    # x = 2, W = 0.5, bias -1: softplus(0) = ln 2. With rate 2, exp(-2 ln 2) = 1/4; with rate 3, 1/8 is
    #     raised to 0.2.
    log2, log3 = 0.6931471805599453, 1.0986122886681098
    params = {
        "weight": torch.tensor([[0.5], [0.5]]),
        "bias": torch.tensor([-1.0, -1.0]),
        "rate": torch.tensor([log2, log3]),
    }
    return (
        HandWorkedPart(
            DecayMomentum(at_least=0.2),
            {"x": torch.tensor([[[2.0]]])},
            {"momentum": torch.tensor([[[0.25, 0.2]]])},
            params,
        ),
    )
