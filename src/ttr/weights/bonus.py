from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ttr.component import Parameter, constant
from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.inputs import Inputs
from ttr.problem import Function, Pair
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

    def controls(self) -> dict[str, str]:
        return {"log_decay": "BTHK"}

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        return {"bonus": Parameter((heads, key_size), constant(self.start))}

    def log_retention(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor
    ) -> Tensor:
        return controls["log_decay"]

    def lower(self, form: LinearRecurrence, function: Function, x: Inputs) -> LinearRecurrence:
        """Read before write, and add the token's own pair to the read-out."""
        bonus = x.axis_params("weights")["bonus"]

        def with_own_pair(
            form: LinearRecurrence, y: Tensor, tensors: dict[str, Tensor]
        ) -> tuple[Tensor, dict[str, Tensor]]:
            score = (form.scaled_query * bonus * form.key).sum(-1, keepdim=True)
            return y + score * form.value, tensors

        return form.then(with_own_pair, reads_first=True)

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
            "weight": "gamma_i^(t) = prod_{i<j<t} a_j for i < t, gamma_t^(t) = u, one for every key channel, "
            f"a_t = exp(log_decay_t), u learned, from {self.start:g}",
            "decay": "D_t = diag(a_t)",
            "update": "S_t = R_{t-1} + (u * phi(k_t)) v_t^T, R_t = D_t R_{t-1} + phi(k_t) v_t^T",
            "order": (
                "read S_t, which holds R before this token and its own pair weighted by u; then decay R, "
                "then write"
            ),
            "approximation": (
                "A weight per key channel is not a weight of a pair, so the memory minimises no squared "
                "error in the keys themselves."
            ),
        }

    @classmethod
    def examples(cls) -> tuple[Bonus, ...]:
        return (cls(),)
