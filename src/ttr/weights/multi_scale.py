from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ttr.decay import numbers_of_heads, of_heads
from ttr.problem import Weights


@dataclass(frozen=True)
class MultiScale(Weights):
    """Fixed decay, one rate per head: 1 - 2^-(first + h) per token in head h (RetNet, arXiv 2307.08621).

    With ``last`` the exponents are evenly spaced from ``first`` to ``last`` for any number of heads. With
    ``among`` = (h, H) the heads are those from number h on of H heads.
    """

    first: float = 5.0
    last: float | None = None
    among: tuple[int, int] | None = None

    retention = "head"

    def __post_init__(self) -> None:
        if self.first <= 0 or self.last is not None and self.last <= 0:
            raise ValueError(f"{self!r} has a decay of 0 in one of its heads. Use numbers above 0.")

    def log_retention(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor
    ) -> Tensor:
        numbers, total = numbers_of_heads(heads, self.among)
        step = 1.0 if self.last is None else (self.last - self.first) / max(total - 1, 1)
        rates = [math.log1p(-(2.0 ** -(self.first + step * h))) for h in numbers]
        return of_heads(rates, like)

    def at_heads(self, first: int, heads: int) -> MultiScale:
        return replace(self, among=(first, heads))

    def formulas(self) -> dict[str, str]:
        steps = "h" if self.last is None else f"({self.last:g} - {self.first:g}) h / (H - 1)"
        return {
            "weight": (
                f"gamma_i^(t) = a_h^(t-i), a_h = 1 - 2^(-{self.first:g} - {steps}) in head h = 0, 1, ..."
            ),
            "decay": "D_t = a_h",
        }

    @classmethod
    def examples(cls) -> tuple[MultiScale, ...]:
        return (cls(first=2.0, last=4.5),)
