from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import relu

from ttr.axes import with_resets
from ttr.problem import Function, Pair, Solver, Weights
from ttr.weights._recurrence import _Recurrence, joined, outer, parted, retrieved


@dataclass(frozen=True)
class ExponentialGate(_Recurrence):
    """Forgetting times an importance exp(log_importance) of any size (the exponential gating of xLSTM's
    mLSTM, arXiv 2405.04517).

    gamma_i^(t) = exp(log_importance_i) a_{i+1} ... a_t, as Product((Geometric(), Importance())), but the
    memory and its normaliser are kept divided by exp(m_t), ``log_scale`` in the state, and only their ratio
    is read. The running maximum m_t = max(log a_t + m_{t-1}, log_importance_t, 0) leaves no exponential of a
    positive number, and a floor f of the divisor, meant for the undivided sums, becomes f exp(-m_t). Any m
    gives the same read-out; with the 0 none can overflow.
    """

    retention: ClassVar[Literal["head"]] = "head"
    importance: ClassVar[bool] = True
    running_maximum: ClassVar[bool] = True

    def controls(self) -> dict[str, str]:
        return {"log_decay": "BTH", "log_importance": "BTH"}

    def state(self, feature_size: int, value_size: int) -> dict[str, tuple[int, ...]]:
        return {"log_scale": ()}

    def log_retention(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor
    ) -> Tensor:
        return with_resets(controls["log_decay"])

    def log_importance(self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> Tensor:
        return controls["log_importance"]

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        if not function.normalized:
            return (
                f"{type(self).__name__} keeps its memory divided by a running maximum that only a ratio "
                f"cancels, and {type(function).__name__} "
                "reads a plain sum. Use Linear(normalized=True), or Product((Geometric(), "
                "Importance())) for bounded importance."
            )
        return super().refuses(weights, function, solver)

    def learn(
        self, function: Function, params: Mapping[str, Tensor], memory: Mapping[str, Tensor], pair: Pair
    ) -> dict[str, Tensor]:
        past = pair.log_decay + memory["log_scale"]
        scale = relu(torch.maximum(past, pair.log_importance))
        kept, written = ((log - scale).exp()[..., None, None] for log in (past, pair.log_importance))
        return parted(memory, kept * joined(memory) + written * outer(memory, pair.key, pair.value)) | {
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
                "m_{t-1}, log w_t, 0), kept as S~_t"
            ),
        }

    @classmethod
    def examples(cls) -> tuple[ExponentialGate, ...]:
        return (cls(),)
