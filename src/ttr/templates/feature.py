"""A feature map: a formula for every entry."""

COMPONENT = '''from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

${ttr}from ttr.problem import FeatureMap


@dataclass(frozen=True)
class $Name(FeatureMap):
    """phi(x) = x^2 + shift, entry by entry.

    Say here what is new about it and where it comes from.
    """

    shift: float = 0.5

    keeps_channels: ClassVar[bool] = True

    def __call__(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return x * x + self.shift

    def formulas(self) -> dict[str, str]:
        return {"features": f"phi(x) = x^2 + {self.shift:g}"}

    @classmethod
    def examples(cls) -> tuple[$Name, ...]:
        return (cls(), cls(shift=0.3))
'''

IMPORTS = """from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.uniform import Uniform
"""

CASE = """\
    # The keys become 4.5, 9.5, 25.5 and the queries 4.5, 9.5, 16.5, with the scale 2.25, 4.75, 8.25.
    # The memory is 4.5 * 7 = 31.5, 31.5 + 104.5 = 136, 136 + 331.5 = 467.5, and of the other channel
    # 13.5, 61, 290.5.
    problem = Problem(Uniform(), Linear($Name(shift=0.5), scale=0.5), OneStep())
    q, k = column(2, 3, 4), column(2, -3, 5)
    v = torch.cat([column(7, 11, 13), column(3, 5, 9)], dim=-1)
    y = torch.cat([column(70.875, 646, 3856.875), column(30.375, 289.75, 2396.625)], dim=-1)
    controls = {}
"""

MEMORY = "ttr.Problem(ttr.weights.Geometric(), ttr.functions.Linear($Name()), ttr.solvers.OneStep())"
