from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad, relu

from ttr.decay import RESET
from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.inputs import Inputs
from ttr.problem import Function, Pair, Solver, Weights
from ttr.weights._recurrence import _Recurrence, joined, outer, parted, retrieved


@dataclass(frozen=True)
class ExponentialGate(_Recurrence):
    """Decay times an importance exp(log_importance) of any size (the exponential gating of xLSTM's mLSTM,
    arXiv 2405.04517).

    gamma_i^(t) = exp(log_importance_i) a_{i+1} ... a_t, as Product((Geometric(), Importance())), but the
    memory and its normaliser are stored divided by exp(m_t), ``log_scale`` in the state, and only their ratio
    is read. With the running maximum m_t = max(log a_t + m_{t-1}, log_importance_t, 0) no exponential has a
    positive argument, and a floor f of the divisor, meant for the undivided sums, becomes f exp(-m_t). Any m
    gives the same read-out; the 0 in the maximum rules out overflow.
    """

    retention: ClassVar[Literal["head"]] = "head"
    importance: ClassVar[bool] = True

    def controls(self) -> dict[str, str]:
        return {"log_decay": "BTH", "log_importance": "BTH"}

    def state(
        self, feature_size: int, value_size: int, memory: Mapping[str, tuple[int, ...]]
    ) -> dict[str, tuple[int, ...]]:
        return {"log_scale": ()}

    def log_retention(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor
    ) -> Tensor:
        return controls["log_decay"]

    def log_importance(self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> Tensor:
        return controls["log_importance"]

    def importance_factor(self, x: Inputs) -> None:
        return None

    def lower(self, form: LinearRecurrence, function: Function, x: Inputs) -> LinearRecurrence:
        """The recurrence of the memory divided by exp(m_t), m_t = max(g_t + m_{t-1}, i_t, 0) for log decays g
        and log importances i.

        In these units the log decay is g_t + m_{t-1} - m_t <= 0 and the log importance i_t - m_t <= 0, so it
        is an ordinary recurrence again. All m come from a scan by doubling: x -> max(a + x, b) after x ->
        max(a' + x, b') is x -> max(a + a' + x, max(a + b', b)), which subtracts nothing and therefore needs
        no special case for resets.
        """
        wide = x.q.dtype if x.q.device.type == "mps" else torch.float64
        decay, importance, start = (
            log.to(wide) for log in (x.log_decay, x.log_importance, x.state["log_scale"])
        )
        total, top, reach = decay, importance, 1
        while reach < x.length:
            earlier = pad(top, (0, 0, reach, 0), value=-torch.inf)[:, : x.length]
            top = torch.maximum(total + earlier, top)
            total = total + pad(total, (0, 0, reach, 0))[:, : x.length]
            reach *= 2
        scale = torch.cat([start[:, None], relu(torch.maximum(total + start[:, None], top))], dim=1)
        log_decay, log_step = decay + scale[:, :-1] - scale[:, 1:], importance - scale[:, 1:]
        # a divisor below this is rounding noise, and eps times the unit must not become 0
        tiny = torch.finfo(x.q.dtype).tiny ** 0.5
        # remove positive rounding errors; clamp(max=0) has no gradient at 0 in some versions of torch
        log_decay = (log_decay - relu(log_decay)).clamp(min=RESET)
        return form._replace(
            log_decay=log_decay.to(x.q.dtype),
            step=log_step.exp().to(x.q.dtype),
            unit=(-scale[:, 1:]).exp().to(x.q.dtype).clamp(min=tiny)[..., None],
            carried={"log_scale": scale[:, -1].to(x.q.dtype)},
        )

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        if not function.normalized:
            return (
                f"{type(self).__name__} divides its memory by the exponential of a running maximum, which "
                f"only a ratio cancels, and {type(function).__name__} reads a plain sum. Use "
                "Linear(normalized=True), or Product((Geometric(), Importance())) for bounded importance."
            )
        return super().refuses(weights, function, solver)

    def learn(
        self, function: Function, params: Mapping[str, Tensor], memory: Mapping[str, Tensor], pair: Pair
    ) -> dict[str, Tensor]:
        past = pair.log_decay + memory["log_scale"]
        scale = relu(torch.maximum(past, pair.log_importance))
        retained, written = ((log - scale).exp()[..., None, None] for log in (past, pair.log_importance))
        return parted(memory, retained * joined(memory) + written * outer(memory, pair.key, pair.value)) | {
            "log_scale": scale
        }

    def read(
        self,
        function: Function,
        params: Mapping[str, Tensor],
        before: Mapping[str, Tensor],
        after: Mapping[str, Tensor],
        query: Tensor,
        pair: Pair,
    ) -> Tensor:
        return retrieved(function, joined(after), query, torch.exp(-after["log_scale"])[..., None])

    def formulas(self) -> dict[str, str]:
        return {
            "weight": (
                "gamma_i^(t) = w_i prod_{i<j<=t} a_j, w_i = exp(log_importance_i), a_t = exp(log_decay_t)"
            ),
            "decay": "D_t = a_t",
            "update": (
                "S_t = a_t S_{t-1} + w_t phi(k_t) v_t^T = exp(m_t) S~_t, m_t = max(log a_t + "
                "m_{t-1}, log w_t, 0), stored as S~_t"
            ),
        }

    @classmethod
    def examples(cls) -> tuple[ExponentialGate, ...]:
        return (cls(),)
