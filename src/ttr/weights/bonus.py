from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.axes import with_resets
from ttr.component import Parameter, constant
from ttr.problem import Function, Pair, Problem, Worked
from ttr.weights._recurrence import _Recurrence, joined, outer, parted, retrieved


@dataclass(frozen=True)
class Bonus(_Recurrence):
    """Read before write, and a learned weight u per key channel for the token's own pair (RWKV-6, arXiv
    2404.05892).

    y_t = (S_{t-1} + (u * k_t) v_t^T)^T q_t, then S_t = diag(a_t) S_{t-1} + k_t v_t^T: a token's own decay
    acts neither on what it reads nor on what it writes. ``start`` is where u begins.
    """

    start: float = 0.5

    retention: ClassVar[Literal["channel"]] = "channel"
    reads_first: ClassVar[bool] = True

    def controls(self) -> dict[str, str]:
        return {"log_decay": "BTHK"}

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        return {"bonus": Parameter((heads, key_size), constant(self.start))}

    def log_retention(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor
    ) -> Tensor:
        return with_resets(controls["log_decay"])

    def learn(
        self, function: Function, params: Mapping[str, Tensor], memory: Mapping[str, Tensor], pair: Pair
    ) -> dict[str, Tensor]:
        return parted(
            memory, pair.log_decay.exp()[..., None] * joined(memory) + outer(memory, pair.key, pair.value)
        )

    def read(
        self,
        function: Function,
        params: Mapping[str, Tensor],
        before: Mapping[str, Tensor],
        after: Mapping[str, Tensor],
        query: Tensor,
        pair: Pair,
    ) -> Tensor:
        return retrieved(
            function, joined(before) + outer(before, params["weights.bonus"] * pair.key, pair.value), query
        )

    def formulas(self) -> dict[str, str]:
        return {
            "weight": "gamma_i^(t) = prod_{i<j<t} a_j for i < t, gamma_t^(t) = u, each one for every "
            "key channel, a_t = exp(log_decay_t), "
            f"u learned, from {self.start:g}",
            "decay": "D_t = diag(a_t)",
            "update": "S_t = R_{t-1} + (u * phi(k_t)) v_t^T, R_t = D_t R_{t-1} + phi(k_t) v_t^T",
            "order": (
                "read S_t, which holds R before this token and its own pair weighed by u; then "
                "decay R, then write"
            ),
            "approximation": (
                "A weight per key channel is no weight of a pair: no squared error in the "
                "keys themselves stands behind it."
            ),
        }

    @classmethod
    def examples(cls) -> tuple[Bonus, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.linear import Linear
        from ttr.solvers.one_step import OneStep

        # u = (2, 0.5): own scores q.(u k) / 2 = (12 + 3) / 2 = 7.5; (-12 - 0.5) / 2 = -6.25; (-2 - 4) / 2 =
        # -3. Decays (0.5, 0.3), (0.8, 0.4), the last without effect. Old pairs: k_1 as written at t = 2,
        # score (-9 + 4) / 2 = -2.5; at t = 3 k_1 has been decayed by the second token alone, (2.4, 0.8),
        # score (1.2 - 1.6) / 2 = -0.2; k_2 as written, score (1 + 1) / 2. y_1 = 7.5 v_1, y_2 = -2.5 v_1 -
        # 6.25 v_2, y_3 = -0.2 v_1 + v_2 - 3 v_3.
        q, k, v, y = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2]],
                [[3, 2], [2, -0.5], [-2, 4]],
                [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
                [[15, -22.5, 3.75], [7.5, -17.5, -20], [-17.4, 6.1, 14.9]],
            )
        )
        decay = torch.tensor([[0.5, 0.3], [0.8, 0.4], [0.25, 0.6]], dtype=torch.float64).log()[None, :, None]
        return (
            Worked(
                Problem(cls(), Linear(scale=0.5), OneStep()),
                q,
                k,
                v,
                y,
                {"log_decay": decay},
                {"weights.bonus": torch.tensor([[2, 0.5]], dtype=torch.float64)},
            ),
        )
