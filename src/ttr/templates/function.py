"""A function: a linear map of shifted keys."""

COMPONENT = '''from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

${ttr}from ttr.problem import Function, scale_or_default


@dataclass(frozen=True)
class $Name(Function):
    """m(k) = S^T (k + shift), a linear map of shifted keys; ``scale`` None means K**-0.5.

    Say here what is new about it and where it comes from.
    """

    shift: float = 0.5
    scale: float | None = None

    linear: ClassVar[bool] = True
    keeps_channels: ClassVar[bool] = True

    def query(self, q: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return scale_or_default(self.scale, q.shape[-1]) * (q + self.shift)

    def key(self, k: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return k + self.shift

    def formulas(self) -> dict[str, str]:
        return {
            "prediction": "m(k) = S^T phi(k)",
            "features": f"phi(x) = x + {self.shift:g}",
            "read-out": "y_t = s S_t^T phi(q_t)",
            "scale": "s = K^(-1/2)" if self.scale is None else f"s = {self.scale:g}",
        }

    @classmethod
    def examples(cls) -> tuple[$Name, ...]:
        return (cls(), cls(shift=-0.3, scale=0.7))
'''

IMPORTS = """from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.uniform import Uniform
"""

CASE = """\
    # The keys become 2.5, -2.5, 5.5 and the queries 2.5, 3.5, 4.5, with the scale 0.75, 1.05, 1.35.
    # The memory is 2.5 * 7 = 17.5, 17.5 - 27.5 = -10, -10 + 71.5 = 61.5, and of the other channel 7.5,
    # 7.5 - 12.5 = -5, -5 + 49.5 = 44.5.
    problem = Problem(Uniform(), $Name(shift=0.5, scale=0.3), OneStep())
    q, k = column(2, 3, 4), column(2, -3, 5)
    v = torch.cat([column(7, 11, 13), column(3, 5, 9)], dim=-1)
    y = torch.cat([column(13.125, -10.5, 83.025), column(5.625, -5.25, 60.075)], dim=-1)
    controls = {}
"""

MEMORY = "ttr.Problem(ttr.weights.Geometric(), $Name(), ttr.solvers.DeltaRule())"
