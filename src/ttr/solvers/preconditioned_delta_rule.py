from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.forms.preconditioner import precondition
from ttr.inputs import Inputs
from ttr.problem import Function, Pair, Solver, Weights
from ttr.solvers._training import expand


@dataclass(frozen=True)
class PreconditionedDeltaRule(Solver):
    """The delta rule with a diagonal preconditioner: S <- D S + step (P * k) (v - (D S)^T k)^T (arXiv
    2604.21100).

    A <- a A + b k^2 is a running sum of squared keys with a = exp(``precond_log_decay``) and b =
    ``precond_step``, the pair's own included. P = bound^(-r / (1 + |r|)), r = ln(A + eps) - c, lies between 1
    / bound and bound: small where keys have been large. Only the written key is preconditioned. c is learned,
    one per head, and starts at ``center``.

    Raises:
        ValueError: if ``bound`` is below 1 or ``eps`` not above 0.
    """

    bound: float = 1.5
    center: float = -0.2
    eps: float = 1e-6

    weights_act_on: ClassVar[Literal["memory"]] = "memory"
    folds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (self.bound >= 1 and self.eps > 0):
            raise ValueError(
                f"PreconditionedDeltaRule(bound={self.bound}, eps={self.eps}) is out of range. "
                "Use bound >= 1 and eps > 0."
            )

    def controls(self) -> dict[str, str]:
        return {"step_size": "BTH", "precond_log_decay": "BTH", "precond_step": "BTH"}

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        return {"center": Parameter((heads,), constant(self.center))}

    def state(
        self, feature_size: int, value_size: int, memory: Mapping[str, tuple[int, ...]]
    ) -> dict[str, tuple[int, ...]]:
        return {"preconditioner": (feature_size,)}

    def formulas(self) -> dict[str, str]:
        return {
            "objective": "||v_t - S^T phi(k_t)||^2 / 2, descended in the metric of P_t",
            "update": "S_t = D_t S_{t-1} + b_t (P_t * phi(k_t)) (v_t - (D_t S_{t-1})^T phi(k_t))^T, b_t "
            "= w_t step_size_t, "
            f"P_t = {self.bound:g}^(-r / (1 + |r|)), r = log(A_t + eps) - c, c learned from "
            f"{self.center:g}, "
            "A_t = exp(precond_log_decay_t) A_{t-1} + w_t precond_step_t phi(k_t)^2",
            "order": (
                "decay, then the error of the decayed memory, then write, then read; A_t includes token t"
            ),
            "parallel form": "a scan for A, then that of the delta rule with the written keys P * phi(k)",
        }

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        if not function.linear:
            return (
                f"A preconditioner per key channel needs a matrix, and {type(function).__name__} keeps "
                "other parameters. Use Linear, or DeltaRule."
            )
        return None

    def lower(self, form: LinearRecurrence, function: Function, x: Inputs) -> LinearRecurrence:
        key, carried = precondition(x, form.key, self.bound, self.eps)
        step = form.times_step(x.controls["step_size"])
        return form._replace(key=key, read=form.key, step=step, carried=carried)

    def learn(
        self, function: Function, params: Mapping[str, Tensor], memory: Mapping[str, Tensor], pair: Pair
    ) -> dict[str, Tensor]:
        key, control = pair.key, {name: c[..., None] for name, c in pair.controls.items()}
        sums = (
            control["precond_log_decay"].exp() * memory["preconditioner"] + control["precond_step"] * key**2
        )
        r = torch.log(sums + self.eps) - params["solver.center"][:, None]
        written = self.bound ** (-r / (1 + r.abs())) * key
        decayed = memory["memory"]
        if pair.log_decay is not None:
            decayed = expand(pair.log_decay.exp(), decayed) * decayed
        error = pair.value - torch.einsum("bhfv,bhf->bhv", decayed, key)
        return {
            "memory": decayed + torch.einsum("bhf,bhv->bhfv", control["step_size"] * written, error),
            "preconditioner": sums,
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
    def examples(cls) -> tuple[PreconditionedDeltaRule, ...]:
        return (cls(bound=3.0, eps=0.1),)
