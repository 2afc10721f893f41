from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.decays import HGRNDecay, KDADecay, Mamba3Decay, MambaDecay, RWKV6Decay, RWKV7Decay


def cases() -> tuple[HandWorkedPart, ...]:
    return (
        *_softplus_decay(),
        *_preconditioner_decay(),
        *_channel_softplus_decay(),
        *_value_softplus_decay(),
        *_selective_decay(),
        *_bounded_forget_gate(),
        *_low_rank_exponential_decay(),
        *_bounded_low_rank_decay(),
    )


def _softplus_decay() -> tuple[HandWorkedPart, ...]:
    # x = 2, W = 0.25, bias -0.5 + ln(e - 1): dt = softplus(ln(e - 1)) = ln(1 + e - 1) = 1; second head W =
    # 0.5, bias -1: dt = softplus(0) = ln 2. Rates ln 3 and ln 2: log decays -3 and -2 ln 2.
    log2, log3 = 0.6931471805599453, 1.0986122886681098
    params = {
        "weight": torch.tensor([[0.25], [0.5]]),
        "bias": torch.tensor([0.5413248546129181 - 0.5, -1.0]),
        "rate": torch.tensor([log3, log2]),
    }
    expected = {
        "log_decay": torch.tensor([[[-3.0, -2 * log2]]]),
        "time_step": torch.tensor([[[1.0, log2]]]),
    }
    return (HandWorkedPart(MambaDecay(), {"x": torch.tensor([[[2.0]]])}, expected, params),)


def _preconditioner_decay() -> tuple[HandWorkedPart, ...]:
    # x = 2, W = 0.5, bias -1: softplus(0) = ln 2, times the rate 3.
    log2, log3 = 0.6931471805599453, 1.0986122886681098
    params = {"weight": torch.tensor([[0.5]]), "bias": torch.tensor([-1.0]), "rate": torch.tensor([log3])}
    return (
        HandWorkedPart(
            MambaDecay("precond_log_decay"),
            {"x": torch.tensor([[[2.0]]])},
            {"precond_log_decay": torch.tensor([[[-3 * log2]]])},
            params,
        ),
    )


def _channel_softplus_decay() -> tuple[HandWorkedPart, ...]:
    # x = 2 goes down to 3, up to (0.75, -1.5), plus bias (-0.75 + ln(e - 1), 1.5): softplus 1 and ln 2;
    # times rate exp(ln 4) = 4.
    log2 = 0.6931471805599453
    params = {
        "down": torch.tensor([[1.5]]),
        "up": torch.tensor([[[0.25], [-0.5]]]),
        "bias": torch.tensor([[0.5413248546129181 - 0.75, 1.5]]),
        "rate": torch.tensor([2 * log2]),
    }
    return (
        HandWorkedPart(
            KDADecay(),
            {"x": torch.tensor([[[2.0]]])},
            {"log_decay": torch.tensor([-4.0, -4 * log2]).reshape(1, 1, 1, 2)},
            params,
        ),
    )


def _value_softplus_decay() -> tuple[HandWorkedPart, ...]:
    # x = 2 goes down to 3, up to (0.75, -1.5), plus bias (-0.75, 1.5): softplus(0) = ln 2 twice, times
    # the rate 3.
    log2, log3 = 0.6931471805599453, 1.0986122886681098
    params = {
        "down": torch.tensor([[1.5]]),
        "up": torch.tensor([[[0.25], [-0.5]]]),
        "bias": torch.tensor([[-0.75, 1.5]]),
        "rate": torch.tensor([log3]),
    }
    expected = torch.full((1, 1, 1, 2), -3 * log2)
    return (
        HandWorkedPart(
            KDADecay("value_log_decay"), {"x": torch.tensor([[[2.0]]])}, {"value_log_decay": expected}, params
        ),
    )


def _selective_decay() -> tuple[HandWorkedPart, ...]:
    # x = 2, A x = ln(e^3 - 1) and 0: softplus 3, and ln 2, of which the floor 0.7 makes 0.7. W x + bias =
    # ln(e - 1) and 0: dt = 1 and ln 2.
    log2 = 0.6931471805599453
    params = {
        "weight": torch.tensor([[0.25], [0.5]]),
        "bias": torch.tensor([0.5413248546129181 - 0.5, -1.0]),
        "rate": torch.tensor([[2.9489308190638107 / 2], [0.0]]),
    }
    expected = {
        "log_decay": torch.tensor([[[-3.0, -0.7 * log2]]]),
        "time_step": torch.tensor([[[1.0, log2]]]),
    }
    return (HandWorkedPart(Mamba3Decay(floor=0.7), {"x": torch.tensor([[[2.0]]])}, expected, params),)


def _bounded_forget_gate() -> tuple[HandWorkedPart, ...]:
    # Bounds sigmoid(ln 3) = 3/4 and sigmoid(-ln 3) = 1/4, gates sigmoid(0) = 1/2 and sigmoid(ln 3) = 3/4: 3/4
    # + 1/4 * 1/2 = 7/8 and 1/4 + 3/4 * 3/4 = 13/16.
    log3 = 1.0986122886681098
    k = torch.tensor([0.0, log3]).reshape(1, 1, 1, 2)
    return (
        HandWorkedPart(
            HGRNDecay(),
            {"k": k},
            {"log_decay": torch.log(torch.tensor([7 / 8, 13 / 16])).reshape(1, 1, 1, 2)},
            {"bound": torch.tensor([[log3, -log3]])},
        ),
    )


def _low_rank_exponential_decay() -> tuple[HandWorkedPart, ...]:
    # x = 2 goes down to ln 3 / 2, tanh (3 - 1) / (3 + 1) = 1/2, up to (1.5, -2), plus bias (ln 3 - 1.5, 2
    # + ln 5): -3 and -5.
    log3, log5 = 1.0986122886681098, 1.6094379124341003
    params = {
        "down": torch.tensor([[log3 / 4]]),
        "up": torch.tensor([[[3.0], [-4.0]]]),
        "bias": torch.tensor([[log3 - 1.5, 2 + log5]]),
    }
    expected = torch.tensor([-3.0, -5.0]).reshape(1, 1, 1, 2)
    return (
        HandWorkedPart(RWKV6Decay(rank=1), {"x": torch.tensor([[[2.0]]])}, {"log_decay": expected}, params),
    )


def _bounded_low_rank_decay() -> tuple[HandWorkedPart, ...]:
    # 2 goes down to ln 3, whose tanh is 0.8, up to (0.4, -1.6), plus bias (ln 3 - 0.4, 1.6): sigmoids 3/4
    # and 1/2, times -2.
    log3 = 1.0986122886681098
    params = {
        "down": torch.tensor([[log3 / 2]]),
        "up": torch.tensor([[[0.5], [-2.0]]]),
        "bias": torch.tensor([[log3 - 0.4, 1.6]]),
    }
    expected = {"log_decay": torch.tensor([-1.5, -1.0]).reshape(1, 1, 1, 2)}
    return (
        HandWorkedPart(
            RWKV7Decay(rank=1, fastest=2.0), {"x_decay": torch.tensor([[[2.0]]])}, expected, params
        ),
    )
