from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.inputs import Inputs
from ttr.problem import Function, Solver


@dataclass(frozen=True)
class ImplicitDeltaRule(Solver):
    """One proximal step per pair: S <- argmin 1/2 ||S - D S_old||^2 + step/2 ||v - S^T k||^2 (Longhorn,
    2407.14207).

    The minimiser is the delta rule with the step divided by 1 + step ||k||^2, stable for any step >= 0.
    """

    weights_act_on: ClassVar[Literal["memory"]] = "memory"
    gradient_at: ClassVar[Literal["new"]] = "new"

    def controls(self) -> dict[str, str]:
        return {"step_size": "BTH"}

    def lower(self, form: LinearRecurrence, function: Function, x: Inputs) -> LinearRecurrence:
        """The explicit delta rule with a smaller step."""
        step = form.times_step(x.controls["step_size"])
        return form._replace(read=form.key, step=step / (1 + step * form.key.square().sum(-1)))

    def objective(self, predict: Callable[[Tensor, Tensor], Tensor], memory: Tensor, *data: Tensor) -> Tensor:
        """``data`` = anchor memory, key, read key (= key), value, step [...] of one pair; the update is the
        minimiser."""
        anchor, key, _, value, step = data
        error = (value - predict(memory, key)).square().sum(-1)
        return 0.5 * (memory - anchor).square().sum() + 0.5 * (step * error).sum()

    def formulas(self) -> dict[str, str]:
        return {
            "objective": (
                "||S - D_t S_{t-1}||^2 / 2 + b_t ||v_t - S^T phi(k_t)||^2 / 2, b_t = w_t step_size_t"
            ),
            "update": (
                "S_t = D_t S_{t-1} + b_t / (1 + b_t ||phi(k_t)||^2) phi(k_t) (v_t - (D_t "
                "S_{t-1})^T phi(k_t))^T"
            ),
            "order": "decay, then write, then read; the minimiser itself, so stable for every step",
            "parallel form": "that of the delta rule with the step b_t / (1 + b_t ||phi(k_t)||^2)",
        }

    @classmethod
    def examples(cls) -> tuple[ImplicitDeltaRule, ...]:
        return (cls(),)
