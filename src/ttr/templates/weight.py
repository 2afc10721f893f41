"""A weight: a decay computed from a control."""

COMPONENT = '''from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

${ttr}from ttr.problem import Weights


@dataclass(frozen=True)
class $Name(Weights):
    """A softened decay: token t multiplies the past by exp(share log_decay_t).

    Say here what is new about it and where it comes from.
    """

    share: float = 0.5

    retention = "head"

    def __post_init__(self) -> None:
        if not self.share > 0:
            raise ValueError(f"$Name(share={self.share}) has no decay. Use a number above 0.")

    def controls(self) -> dict[str, str]:
        return {"log_decay": "BTH"}

    def log_retention(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor
    ) -> Tensor:
        return self.share * controls["log_decay"]

    def formulas(self) -> dict[str, str]:
        weight = f"gamma_i^(t) = prod_{{i<j<=t}} a_j, a_t = exp({self.share:g} log_decay_t)"
        return {"weight": weight, "decay": "D_t = a_t"}

    @classmethod
    def examples(cls) -> tuple[$Name, ...]:
        return (cls(), cls(share=0.3))
'''

IMPORTS = """from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
"""

CASE = """\
    # Decays 0.25, 0.36, 0.64, half of their logarithms: 0.5, 0.6, 0.8. The memory is 2 * 7 = 14,
    # 0.6 * 14 + 3 * 11 = 41.4, 0.8 * 41.4 + 5 * 13 = 98.12, and twice that for the doubled values.
    problem = Problem($Name(share=0.5), Linear(scale=0.3), OneStep())
    q, k, memory = column(4, 1.5, 2.5), column(2, 3, 5), column(14, 41.4, 98.12)
    v = torch.cat([column(7, 11, 13), 2 * column(7, 11, 13)], dim=-1)
    y = torch.cat([memory, 2 * memory], dim=-1) * 0.3 * q
    controls = {"log_decay": column(0.25, 0.36, 0.64)[..., 0].log()}
"""

MEMORY = "ttr.Problem($Name(), ttr.functions.Linear(), ttr.solvers.DeltaRule())"
