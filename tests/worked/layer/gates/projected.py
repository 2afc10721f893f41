from __future__ import annotations

import torch

from tests.worked import HandWorkedPart
from ttr.layer.gates.projected import LevelWeight, LinearGate, LogSigmoidGate, SigmoidGate, SoftplusGate
from ttr.layer.initialisers import inverse_softplus


def cases() -> tuple[HandWorkedPart, ...]:
    return (
        *_linear_phase(),
        *_capped_importance(),
        *_sigmoid_step_size(),
        *_preconditioner_step(),
        *_sigmoid_momentum(),
        *_sigmoid_mix(),
        *_sigmoid_trapezoid(),
        *_sigmoid_write(),
        *_log_sigmoid_decay(),
        *_low_rank_decay(),
        *_log_sigmoid_importance(),
        *_softplus_rates(),
        *_softplus_threshold(),
        *_softplus_level_weight(),
    )


def _linear_phase() -> tuple[HandWorkedPart, ...]:
    # x = (2, 3): 0.5*2 + 3 = 4 and -2 + 4*3 = 10.
    weight = torch.tensor([[[0.5, 1.0], [-1.0, 4.0]]])
    return (
        HandWorkedPart(
            LinearGate("phase", per="channel"),
            {"x": torch.tensor([[[2.0, 3.0]]])},
            {"phase": torch.tensor([4.0, 10.0]).reshape(1, 1, 1, 2)},
            {"weight": weight},
        ),
    )


def _capped_importance() -> tuple[HandWorkedPart, ...]:
    # x = 2: (0.5*2 + ln 3 - 1) / 2 = ln 3 / 2, tanh (3 - 1) / (3 + 1) = 1/2; second head -ln 3 / 2: times
    #     the cap 2.
    log3 = 1.0986122886681098
    params = {"weight": torch.tensor([[0.5], [-1.5]]), "bias": torch.tensor([log3 - 1, 3.0 - log3])}
    return (
        HandWorkedPart(
            LinearGate("log_importance", bias=-10.0, cap=2.0),
            {"x": torch.tensor([[[2.0]]])},
            {"log_importance": torch.tensor([[[1.0, -1.0]]])},
            params,
        ),
    )


def _sigmoid_step_size() -> tuple[HandWorkedPart, ...]:
    # x = (1, 2): W x = (2*1 - 0.5*2, -1*1 + 0.5*2 - ln 3 * 1) = (1, -ln 3); 2 sigmoid(1) = 1.4621171573,
    #     2 sigmoid(-ln 3) = 0.5.
    weight = torch.tensor([[2.0, -0.5], [-1.0 - 1.0986122886681098, 0.5]])
    expected = {"step_size": torch.tensor([[[1.4621171572600098, 0.5]]])}
    return (
        HandWorkedPart(
            SigmoidGate("step_size", scale=2.0),
            {"x": torch.tensor([[[1.0, 2.0]]])},
            expected,
            {"weight": weight},
        ),
    )


def _preconditioner_step() -> tuple[HandWorkedPart, ...]:
    # x = (1, 2): W x = -1 + 0.5*2 - ln 3, whose sigmoid is 1/4.
    params = {"weight": torch.tensor([[-1.0 - 1.0986122886681098, 0.5]])}
    return (
        HandWorkedPart(
            SigmoidGate("precond_step"),
            {"x": torch.tensor([[[1.0, 2.0]]])},
            {"precond_step": torch.tensor([[[0.25]]])},
            params,
        ),
    )


def _sigmoid_momentum() -> tuple[HandWorkedPart, ...]:
    # x = 2: logits 0.5*2 + ln 3 - 1 = ln 3 and -1.5*2 + 3 - ln 3 = -ln 3: 3/4 and 1/4.
    log3 = 1.0986122886681098
    params = {"weight": torch.tensor([[0.5], [-1.5]]), "bias": torch.tensor([log3 - 1, 3 - log3])}
    return (
        HandWorkedPart(
            SigmoidGate("momentum", bias=0.0),
            {"x": torch.tensor([[[2.0]]])},
            {"momentum": torch.tensor([[[0.75, 0.25]]])},
            params,
        ),
    )


def _sigmoid_mix() -> tuple[HandWorkedPart, ...]:
    # x = (2, 3): 0.5*2 - 3 + 2 + ln 3 = ln 3 and 0.25*2 + 0.5*3 - 2 - ln 4 = -ln 4: sigmoid = 3/4 and
    #     1/5.
    params = {
        "weight": torch.tensor([[0.5, -1.0], [0.25, 0.5]]),
        "bias": torch.tensor([2 + 1.0986122886681098, -2 - 1.3862943611198906]),
    }
    return (
        HandWorkedPart(
            SigmoidGate("mix", bias=0.0),
            {"x": torch.tensor([[[2.0, 3.0]]])},
            {"mix": torch.tensor([[[0.75, 0.2]]])},
            params,
        ),
    )


def _sigmoid_trapezoid() -> tuple[HandWorkedPart, ...]:
    # x = 2: logits ln 3 and -ln 3: sigmoids 3/4 and 1/4.
    log3 = 1.0986122886681098
    streams = {"x": torch.tensor([[[2.0]]])}
    return (
        HandWorkedPart(
            SigmoidGate("trapezoid"),
            streams,
            {"trapezoid": torch.tensor([[[0.75, 0.25]]])},
            {"weight": torch.tensor([[log3 / 2], [-log3 / 2]])},
        ),
    )


def _sigmoid_write() -> tuple[HandWorkedPart, ...]:
    # x = (1, 2): W x = (2 - 1, -ln 3); sigmoids 0.7310585786 and 1/4.
    weight = torch.tensor([[[2.0, -0.5], [-1.0986122886681098, 0.0]]])
    expected = {"write": torch.tensor([0.7310585786300049, 0.25]).reshape(1, 1, 1, 2)}
    return (
        HandWorkedPart(
            SigmoidGate("write"), {"x": torch.tensor([[[1.0, 2.0]]])}, expected, {"weight": weight}
        ),
    )


def _log_sigmoid_decay() -> tuple[HandWorkedPart, ...]:
    # x = 2: logits 0.5*2 + ln 3 - 1 = ln 3 and -1.5*2 + 3 = 0: ln 3/4 and ln 1/2.
    params = {
        "weight": torch.tensor([[0.5], [-1.5]]),
        "bias": torch.tensor([1.0986122886681098 - 1, 3.0]),
    }
    expected = torch.tensor([[[-0.2876820724517809, -0.6931471805599453]]])
    return (
        HandWorkedPart(
            LogSigmoidGate("log_decay"), {"x": torch.tensor([[[2.0]]])}, {"log_decay": expected}, params
        ),
    )


def _low_rank_decay() -> tuple[HandWorkedPart, ...]:
    # x = 2 goes down to 3, up to (0.75, -1.5), plus bias (ln 3 - 0.75, 1.5): logits ln 3 and 0, sigmoids
    # 3/4 and 1/2; over 4.
    params = {
        "down": torch.tensor([[1.5]]),
        "up": torch.tensor([[[0.25], [-0.5]]]),
        "bias": torch.tensor([[1.0986122886681098 - 0.75, 1.5]]),
    }
    expected = torch.tensor([-0.2876820724517809 / 4, -0.6931471805599453 / 4]).reshape(1, 1, 1, 2)
    return (
        HandWorkedPart(
            LogSigmoidGate("log_decay", per="channel", rank=1, scale=0.25),
            {"x": torch.tensor([[[2.0]]])},
            {"log_decay": expected},
            params,
        ),
    )


def _log_sigmoid_importance() -> tuple[HandWorkedPart, ...]:
    # x = 2, two pairs of one head: logits 0.5*2 + ln 3 - 1 = ln 3 and -1.5*2 + 3 = 0: 3 ln 3/4 and 3 ln
    #     1/2.
    params = {
        "weight": torch.tensor([[[0.5]], [[-1.5]]]),
        "bias": torch.tensor([[1.0986122886681098 - 1], [3.0]]),
    }
    expected = torch.tensor([-0.8630462173553427, -2.0794415416798357]).reshape(1, 1, 2, 1)
    return (
        HandWorkedPart(
            LogSigmoidGate("log_importance", scale=3.0),
            {"x": torch.tensor([[[2.0]]])},
            {"log_importance": expected},
            params,
        ),
    )


def _softplus_rates() -> tuple[HandWorkedPart, ...]:
    # x = 2, two groups of one head: logits 0.25*2 - 0.5 + ln(e - 1), whose softplus is ln(1 + e - 1) = 1,
    #     and 0.5*2 - 1 = 0, of which it is ln 2.
    params = {
        "weight": torch.tensor([[[0.25], [0.5]]]),
        "bias": torch.tensor([[0.5413248546129181 - 0.5, -1.0]]),
    }
    expected = {"step_size": torch.tensor([1.0, 0.6931471805599453]).reshape(1, 1, 1, 2)}
    return (
        HandWorkedPart(
            SoftplusGate("step_size", per="group", bias=inverse_softplus(0.001)),
            {"x": torch.tensor([[[2.0]]])},
            expected,
            params,
        ),
    )


def _softplus_threshold() -> tuple[HandWorkedPart, ...]:
    # x = 2: logits 0.25*2 - 0.5 + ln(e - 1), whose softplus is ln(1 + e - 1) = 1, and 0.5*2 - 1 = 0, of
    #     which it is ln 2.
    params = {
        "weight": torch.tensor([[0.25], [0.5]]),
        "bias": torch.tensor([0.5413248546129181 - 0.5, -1.0]),
    }
    expected = {"threshold": torch.tensor([[[1.0, 0.6931471805599453]]])}
    return (
        HandWorkedPart(SoftplusGate("threshold", bias=0.5), {"x": torch.tensor([[[2.0]]])}, expected, params),
    )


def _softplus_level_weight() -> tuple[HandWorkedPart, ...]:
    # x = 2, one head, two levels: 3 * (ln(e - 1) / 6) * 2 = ln(e - 1) and 0.5 * 0 = 0: softplus 1 and ln
    #     2.
    params = {
        "weight": torch.tensor([[[0.5413248546129181 / 6], [0.0]]]),
        "strength": torch.tensor([[3.0, 0.5]]),
    }
    expected = {"level_weight": torch.tensor([1.0, 0.6931471805599453]).reshape(1, 1, 1, 2)}
    return (HandWorkedPart(LevelWeight(), {"x": torch.tensor([[[2.0]]])}, expected, params),)
