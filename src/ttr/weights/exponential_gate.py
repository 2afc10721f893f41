from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import relu

from ttr.axes import with_resets
from ttr.problem import Function, Pair, Problem, Solver, Weights, Worked
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

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.linear import Linear
        from ttr.solvers.one_step import OneStep

        # Importances e^200, 3 e^200, 0.25 e^200 and decays 0.5, 0.8, 0.25: in units of e^200 the scores
        # q_t.k_i / 2 = 6 | -2.5, -3.5 | -1.25, 1, -4.5 times gamma = 1 | 0.8, 3 | 0.2, 0.75, 0.25, that is 6
        # | -2, -10.5 | -0.25, 0.75, -1.125, whose sums have the absolute values 6, 12.5 and 0.625, far above
        # the floor.
        q, k, v, large = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2]],
                [[3, 2], [2, -0.5], [-2, 4]],
                [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
                [
                    [2, -3, 0.5],
                    [17 / 12.5, -36 / 12.5, -32.5 / 12.5],
                    [-7.625 / 0.625, 4.3125 / 0.625, 6.625 / 0.625],
                ],
            )
        )
        # Importances 0.5, 3, 0.25 and a floor of 4: the scores 3 | -1, -10.5 | -0.125, 0.75, -1.125 have sums
        # 3, -11.5, -0.5, the divisors 4, 11.5, 4. With no floor and eps = 0.25 the divisors are 3.25, -11.25,
        # -0.25.
        small = torch.tensor(
            [[1.5, -2.25, 0.375], [19 / 11.5, -39 / 11.5, -32 / 11.5], [-1.84375, 0.984375, 1.671875]],
            dtype=torch.float64,
        )
        signed = torch.tensor(
            [
                [6 / 3.25, -9 / 3.25, 1.5 / 3.25],
                [-19 / 11.25, 39 / 11.25, 32 / 11.25],
                [29.5, -15.75, -26.75],
            ],
            dtype=torch.float64,
        )
        decay, importance = (
            torch.tensor(x, dtype=torch.float64).log().reshape(1, 3, 1)
            for x in ([0.5, 0.8, 0.25], [0.5, 3, 0.25])
        )
        huge = 200 + torch.tensor([1.0, 3, 0.25], dtype=torch.float64).log().reshape(1, 3, 1)
        problem = Problem(cls(), Linear(normalized=True, scale=0.5, floor=4.0, absolute=True), OneStep())
        plain = Problem(cls(), Linear(normalized=True, scale=0.5, eps=0.25), OneStep())
        return (
            Worked(plain, q, k, v, signed[None, :, None], {"log_decay": decay, "log_importance": importance}),
            Worked(problem, q, k, v, large, {"log_decay": decay, "log_importance": huge}),
            Worked(
                problem, q, k, v, small[None, :, None], {"log_decay": decay, "log_importance": importance}
            ),
        )
