from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.forms import OjaRecurrence
from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.inputs import Inputs
from ttr.problem import Function, Pair, Solver, Weights
from ttr.solvers._training import expand


@dataclass(frozen=True)
class OjaRule(Solver):
    """The delta rule with keys and values exchanged: N, which maps values to keys, takes a gradient step on
    1/2 ||k - N v||^2 per pair.

    N <- D N diag(a), then N <- N + step (k - N v) v^T, with a = exp(``value_log_decay``) per value channel in
    addition to the decay D of the weights; stable for step ||v||^2 below 2. The read-out is the adjoint, y =
    N^T q (the gated Oja rule of flash-linear-attention 0.6.0, after Oja, J. Math. Biology 15, 1982).
    """

    weights_act_on: ClassVar[Literal["memory"]] = "memory"
    form: ClassVar[type] = OjaRecurrence
    folds: ClassVar[bool] = True

    def controls(self) -> dict[str, str]:
        return {"step_size": "BTH", "value_log_decay": "BTHV"}

    def formulas(self) -> dict[str, str]:
        return {
            "objective": "||phi(k_t) - N v_t||^2 / 2",
            "prediction": "n(v) = N v, keys from values",
            "update": (
                "N_t = N~ + b_t (phi(k_t) - N~ v_t) v_t^T, N~ = D_t N_{t-1} diag(c_t), c_t = "
                "exp(value_log_decay_t), b_t = w_t step_size_t"
            ),
            "read-out": "y_t = s N_t^T phi(q_t)",
            "order": "decay, then the error of the decayed memory, then write, then read",
            "parallel form": "that of the delta rule with keys and values exchanged, chunk by chunk",
            "approximation": (
                "The regression runs from values to keys, and the read-out is its adjoint, not a prediction."
            ),
        }

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        if not function.linear:
            return (
                f"The Oja rule learns a matrix, and {type(function).__name__} keeps other parameters. "
                "Use Linear, or another solver."
            )
        return None

    def lower(self, form: LinearRecurrence, function: Function, x: Inputs) -> LinearRecurrence:
        return form._replace(step=form.times_step(x.controls["step_size"]))

    def learn(
        self, function: Function, params: Mapping[str, Tensor], memory: Mapping[str, Tensor], pair: Pair
    ) -> dict[str, Tensor]:
        decayed = memory["memory"] * pair.controls["value_log_decay"].exp()[..., None, :]
        if pair.log_decay is not None:
            decayed = expand(pair.log_decay.exp(), decayed) * decayed
        error = pair.key - torch.einsum("bhfv,bhv->bhf", decayed, pair.value)
        return {
            "memory": decayed
            + pair.controls["step_size"][..., None, None] * torch.einsum("bhf,bhv->bhfv", error, pair.value)
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
        return torch.einsum("bhfv,bhf->bhv", after["memory"], query)

    @classmethod
    def examples(cls) -> tuple[OjaRule, ...]:
        return (cls(),)
