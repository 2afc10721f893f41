"""A solver: one gradient step per pair on an objective of its own."""

COMPONENT = '''from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

${ttr}from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.inputs import Inputs
from ttr.problem import Function, Solver


@dataclass(frozen=True)
class $Name(Solver):
    """The delta rule with every step multiplied by ``share``: one gradient step per pair on
    share / 2 ||v - m(k)||^2.

    Say here what is new about it and where it comes from.
    """

    share: float = 0.5

    weights_act_on: ClassVar[Literal["memory"]] = "memory"

    def __post_init__(self) -> None:
        if not self.share > 0:
            raise ValueError(f"$Name(share={self.share}) never changes the memory. Use a number above 0.")

    def controls(self) -> dict[str, str]:
        return {"step_size": "BTH"}

    def lower(self, form: LinearRecurrence, function: Function, x: Inputs) -> LinearRecurrence:
        step = self.share * form.times_step(x.controls["step_size"])
        return form._replace(read=form.key, step=step)

    def objective(
        self, predict: Callable[..., Tensor], memory: Tensor | Mapping[str, Tensor], *data: object
    ) -> Tensor:
        """``data`` = anchor memory, key and read key [B,H,F] (features, mapped by the function) and value
        [B,H,V] of one pair of every sequence and head; the sum of their losses, each a sum over its own
        channels. The oracle steps along the gradient in ``memory``."""
        anchor, key, read_key, value = data
        return 0.5 * self.share * (value - predict(memory, key)).square().sum()

    def formulas(self) -> dict[str, str]:
        written = "phi(k_t) (v_t - (D_t S_{t-1})^T phi(k_t))^T"
        return {
            "objective": f"{self.share:g} ||v_t - S^T phi(k_t)||^2 / 2",
            "update": f"S_t = D_t S_{{t-1}} + b_t {written}, b_t = {self.share:g} w_t step_size_t",
            "order": "decay, then write, then read; the error is measured after the decay",
        }

    @classmethod
    def examples(cls) -> tuple[$Name, ...]:
        return (cls(), cls(share=0.3))
'''

IMPORTS = """from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.weights.uniform import Uniform
"""

CASE = """\
    # Half of the steps 0.4, 0.6, 0.3. The memory is 0.2 * 2 * 3 = 1.2, 1.2 + 0.3 * 3 * (5 - 3.6) = 2.46,
    # 2.46 + 0.15 * 1.5 * (7 - 3.69) = 3.20475, and twice that for the doubled values.
    problem = Problem(Uniform(), Linear(scale=0.7), $Name(share=0.5))
    q, k, memory = column(2, 4, 3), column(2, 3, 1.5), column(1.2, 2.46, 3.20475)
    v = torch.cat([column(3, 5, 7), 2 * column(3, 5, 7)], dim=-1)
    y = torch.cat([memory, 2 * memory], dim=-1) * 0.7 * q
    controls = {"step_size": column(0.4, 0.6, 0.3)[..., 0]}
"""

MEMORY = "ttr.Problem(ttr.weights.Geometric(), ttr.functions.Linear(), $Name())"
