from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.inputs import Inputs
from ttr.problem import Function, Pair
from ttr.weights._recurrence import _Recurrence, joined, outer, parted, retrieved


@dataclass(frozen=True)
class Trapezoid(_Recurrence):
    """Decay, with the pairs added by a generalised trapezoid rule over time steps (Mamba-3, arXiv
    2603.15569).

    S_t = a_t (S_{t-1} + (1 - l_t) d_t k_{t-1} v_{t-1}^T) + l_t d_t k_t v_t^T with the step d =
    exp(log_importance) and the share l = ``trapezoid`` of the newer end of the interval; l = 1 is Euler's
    rule. Hence gamma_i^(t) = a_{i+1} ... a_t (l_i d_i + (1 - l_{i+1}) d_{i+1}) for i < t, and l_t d_t for the
    newest pair. The previous pair is part of the state.
    """

    retention: ClassVar[Literal["head"]] = "head"

    def controls(self) -> dict[str, str]:
        return {"log_decay": "BTH", "log_importance": "BTH", "trapezoid": "BTH"}

    def state(
        self, feature_size: int, value_size: int, memory: Mapping[str, tuple[int, ...]]
    ) -> dict[str, tuple[int, ...]]:
        return {"previous_key": (feature_size,), "previous_value": (value_size,)}

    def log_retention(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor
    ) -> Tensor:
        return controls["log_decay"]

    def log_importance(self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> Tensor:
        return controls["log_importance"]

    def lower(self, form: LinearRecurrence, function: Function, x: Inputs) -> LinearRecurrence:
        """Two pairs per token: the previous token's before the decay, then its own; both have the token's
        importance."""
        share = torch.stack([1 - x.controls["trapezoid"], x.controls["trapezoid"]], dim=2)
        previous = x.state["previous_value"]
        # a normaliser has values of 1
        previous = pad(previous, (0, form.value.shape[-1] - previous.shape[-1]), value=1.0)
        keys = torch.cat([x.state["previous_key"][:, None], form.key], dim=1)
        values = torch.cat([previous[:, None], form.value], dim=1)
        key, value = (
            torch.stack([pair[:, :-1], pair[:, 1:]], dim=2).flatten(1, 2) for pair in (keys, values)
        )
        log_decay = torch.stack([torch.zeros_like(form.log_decay), form.log_decay], dim=2).flatten(1, 2)
        return form._replace(
            key=key,
            value=value,
            step=(share * form.step[:, :, None]).flatten(1, 2),
            log_decay=log_decay,
            pairs=2,
            carried={"previous_key": keys[:, -1], "previous_value": values[:, -1, :, : x.v.shape[-1]]},
        )

    def learn(
        self, function: Function, params: Mapping[str, Tensor], memory: Mapping[str, Tensor], pair: Pair
    ) -> dict[str, Tensor]:
        decay, step, newer = (
            x[..., None, None]
            for x in (pair.log_decay.exp(), pair.log_importance.exp(), pair.controls["trapezoid"])
        )
        previous = outer(memory, memory["previous_key"], memory["previous_value"])
        columns = (
            decay * joined(memory)
            + (1 - newer) * step * decay * previous
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
