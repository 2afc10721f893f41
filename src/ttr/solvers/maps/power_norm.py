from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ttr.forms.network import Mirror
from ttr.solvers.maps._map import _Map


@dataclass(frozen=True)
class PowerNorm(_Map):
    """W = A / ||A||_q^(q-2): weights from an accumulator, the retention of Moneta (arXiv 2504.13173). q = 2
    leaves A as it is.

    ``eps`` is added to ||A||_q^q, so that A = 0 gives W = 0. It has no say where an entry of A is above
    eps^(1/q), 3e-5 as it is given; without it what forgets almost everything would have weights as large as A
    is small.
    """

    power: float = 4.0
    eps: float = 1e-18

    @property
    def formula(self) -> str:
        return f"W = A (sum_ij |A_ij|^{self.power:g} + {self.eps:g})^({2 - self.power:g}/{self.power:g})"

    def __call__(self, matrix: Tensor) -> Tensor:
        total = matrix.abs().pow(self.power).sum((-2, -1), keepdim=True)
        return matrix * (total + self.eps).pow((2 - self.power) / self.power)

    def mirror(self) -> Mirror:
        return Mirror(self.power, self.eps)

    @classmethod
    def examples(cls) -> tuple[PowerNorm, ...]:
        return (cls(),)
