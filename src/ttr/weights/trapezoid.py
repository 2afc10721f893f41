from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.axes import with_resets
from ttr.problem import Function, Pair, Problem, Worked
from ttr.weights._recurrence import _Recurrence, joined, outer, parted, retrieved


@dataclass(frozen=True)
class Trapezoid(_Recurrence):
    """Forgetting, with the pairs added by a generalised trapezoid rule over steps of time (Mamba-3, arXiv
    2603.15569).

    S_t = a_t (S_{t-1} + (1 - l_t) d_t k_{t-1} v_{t-1}^T) + l_t d_t k_t v_t^T with the step d =
    exp(log_importance) and the share l = ``trapezoid`` of the newer end of the interval; l = 1 is Euler's
    rule. Hence gamma_i^(t) = a_{i+1} ... a_t (l_i d_i + (1 - l_{i+1}) d_{i+1}) for i < t, and l_t d_t for the
    newest pair. The state keeps the previous pair.
    """

    retention: ClassVar[Literal["head"]] = "head"
    writes_previous: ClassVar[bool] = True

    def controls(self) -> dict[str, str]:
        return {"log_decay": "BTH", "log_importance": "BTH", "trapezoid": "BTH"}

    def state(self, feature_size: int, value_size: int) -> dict[str, tuple[int, ...]]:
        return {"previous_key": (feature_size,), "previous_value": (value_size,)}

    def log_retention(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor
    ) -> Tensor:
        return with_resets(controls["log_decay"])

    def log_importance(self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> Tensor:
        return controls["log_importance"]

    def learn(
        self, function: Function, params: Mapping[str, Tensor], memory: Mapping[str, Tensor], pair: Pair
    ) -> dict[str, Tensor]:
        kept, step, newer = (
            x[..., None, None]
            for x in (pair.log_decay.exp(), pair.log_importance.exp(), pair.controls["trapezoid"])
        )
        previous = outer(memory, memory["previous_key"], memory["previous_value"])
        columns = (
            kept * joined(memory)
            + (1 - newer) * step * kept * previous
            + newer * step * outer(memory, pair.key, pair.value)
        )
        return parted(memory, columns) | {"previous_key": pair.key, "previous_value": pair.value}

    def read(
        self,
        function: Function,
        params: Mapping[str, Tensor],
        before: Mapping[str, Tensor],
        after: Mapping[str, Tensor],
        query: Tensor,
        pair: Pair,
    ) -> Tensor:
        return retrieved(function, joined(after), query)

    def formulas(self) -> dict[str, str]:
        return {
            "weight": "gamma_i^(t) = (l_i d_i + (1 - l_{i+1}) d_{i+1}) prod_{i<j<=t} a_j for i < t, "
            "gamma_t^(t) = l_t d_t, "
            "a_t = exp(log_decay_t), d_t = exp(log_importance_t), l_t = trapezoid_t",
            "decay": "D_t = a_t",
            "update": "S_t = a_t (S_{t-1} + (1 - l_t) d_t phi(k_{t-1}) v_{t-1}^T) + l_t d_t phi(k_t) v_t^T",
            "order": (
                "write the previous pair, then decay, then write the token's own (the two ends of "
                "a trapezoid), then read"
            ),
        }

    @classmethod
    def examples(cls) -> tuple[Trapezoid, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.linear import Linear
        from ttr.solvers.one_step import OneStep

        # Decays 0.5, 0.8, 0.25, steps 0.5, 3, 0.4, shares 0.6, 0.25, 0.75. Weights l_i d_i of the newest pair
        # 0.3 | 0.75 | 0.3, of older ones
        # with (1 - l) d of the next token: pair 1 0.8 (0.3 + 2.25) = 2.04, then 0.25 * 2.04 = 0.51; pair 2
        # 0.25 (0.75 + 0.1) = 0.2125. The scores q_t.k_i / 2 = 6 | -2.5, -3.5 | -1.25, 1, -4.5: y_1 = 1.8 v_1,
        # y_2 = -5.1 v_1 - 2.625 v_2,
        # y_3 = -0.6375 v_1 + 0.2125 v_2 - 1.35 v_3.
        q, k, v, y = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2]],
                [[3, 2], [2, -0.5], [-2, 4]],
                [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
                [[3.6, -5.4, 0.9], [-4.95, 4.8, -10.425], [-8.45, 3.4375, 5.71875]],
            )
        )
        decay, step, newer = (
            torch.tensor(x, dtype=torch.float64).reshape(1, 3, 1)
            for x in ([0.5, 0.8, 0.25], [0.5, 3, 0.4], [0.6, 0.25, 0.75])
        )
        controls = {"log_decay": decay.log(), "log_importance": step.log(), "trapezoid": newer}
        return (Worked(Problem(cls(), Linear(scale=0.5), OneStep()), q, k, v, y, controls),)
