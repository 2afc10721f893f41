from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ttr.forms.network import Mirror
from ttr.solvers.maps._map import _Map


@dataclass(frozen=True)
class Simplex(_Map):
    """W = ``total`` softmax(A) over the inputs of every output: weights from an accumulator, the retention of
    Memora (arXiv 2504.13173).

    With A <- a A - step grad it is the mirror descent W <- softmax(a log W - step grad), because softmax
    ignores a constant.
    """

    total: float = 1.0

    @property
    def formula(self) -> str:
        return (
            f"W = {'' if self.total == 1 else f'{self.total:g} '}softmax(A) over the inputs of every output"
        )

    def __call__(self, matrix: Tensor) -> Tensor:
        return self.total * matrix.softmax(-2)

    def mirror(self) -> Mirror:
        return Mirror(total=self.total)

    @classmethod
    def examples(cls) -> tuple[Simplex, ...]:
        return (cls(),)
