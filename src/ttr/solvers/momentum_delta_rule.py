from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.forms import MomentumRecurrence
from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.inputs import Inputs
from ttr.problem import Function, Pair, Solver, Weights
from ttr.solvers._training import expand


@dataclass(frozen=True)
class MomentumDeltaRule(Solver):
    """Gradient descent with heavy-ball momentum: Z <- mu Z - step k (v - S_x^T p)^T, S <- D S - beta Z (arXiv
    2605.05838).

    mu is the control ``momentum``, beta ``momentum_step``. Z, the running gradient, is stored in the state as
    "momentum" and does not decay with D. S_x and p are those of ``DeltaRule``.
    """

    gradient_at: Literal["decayed", "old"] = "old"
    separate_read: bool = False

    weights_act_on: ClassVar[Literal["memory"]] = "memory"
    form: ClassVar[type] = MomentumRecurrence
    folds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.gradient_at not in ("decayed", "old"):
            raise ValueError(f"gradient_at={self.gradient_at!r} is unknown. Use 'decayed' or 'old'.")

    def controls(self) -> dict[str, str]:
        return {"step_size": "BTH", "momentum": "BTH", "momentum_step": "BTH"} | (
            {"read_key": "BTHK"} if self.separate_read else {}
        )

    def state(
        self, feature_size: int, value_size: int, memory: Mapping[str, tuple[int, ...]]
    ) -> dict[str, tuple[int, ...]]:
        return {"momentum": (feature_size, value_size)}

    def formulas(self) -> dict[str, str]:
        at = "(D_t S_{t-1})^T" if self.gradient_at == "decayed" else "S_{t-1}^T"
        read, meaning = ("p", ", p = read_key") if self.separate_read else ("k", "")
        formulas = {
            "objective": "||v_t - S^T phi(k_t)||^2 / 2",
            "update": f"Z_t = momentum_t Z_{{t-1}} - b_t phi(k_t) (v_t - {at} phi({read}_t))^T, S_t = "
            f"D_t S_{{t-1}} - momentum_step_t Z_t, "
            f"b_t = w_t step_size_t{meaning}",
            "order": (
                f"the error of the {self.gradient_at} memory, then momentum, then decay and step, "
                "then read; Z does not decay with S"
            ),
            "parallel form": (
                "one triangular system per chunk as for the delta rule, with sums of "
                "products of decays and momenta for weights"
            ),
        }
        return formulas | (
            {
                "approximation": (
                    "It reads and writes at different keys, which is the gradient of no single loss in S."
                )
            }
            if meaning
            else {}
        )

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        if not function.linear:
            return (
                f"This momentum is defined for a matrix, and {type(function).__name__} keeps other "
                "parameters. Use Linear, or another solver."
            )
        return None

    def lower(self, form: LinearRecurrence, function: Function, x: Inputs) -> LinearRecurrence:
        read = form.key
        if self.separate_read:
            read = function.key(x.controls["read_key"], x.axis_params("function"))
        step = form.times_step(x.controls["step_size"])
        return form._replace(read=read, step=step, old=self.gradient_at == "old")

    def learn(
        self, function: Function, params: Mapping[str, Tensor], memory: Mapping[str, Tensor], pair: Pair
    ) -> dict[str, Tensor]:
        eta, mu, beta = (
            pair.controls[name][..., None, None] for name in ("step_size", "momentum", "momentum_step")
        )
        decayed = memory["memory"]
        if pair.log_decay is not None:
            decayed = expand(pair.log_decay.exp(), decayed) * decayed
        source = decayed if self.gradient_at == "decayed" else memory["memory"]
        error = pair.value - torch.einsum("bhfv,bhf->bhv", source, pair.controls.get("read_key", pair.key))
        momentum = mu * memory["momentum"] - eta * torch.einsum("bhf,bhv->bhfv", pair.key, error)
        return {"memory": decayed - beta * momentum, "momentum": momentum}

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
    def examples(cls) -> tuple[MomentumDeltaRule, ...]:
        return (cls(), cls("decayed", separate_read=True))
