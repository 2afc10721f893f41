from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ttr.decay import numbers_of_heads, of_heads
from ttr.problem import Weights


@dataclass(frozen=True)
class Alibi(Weights):
    """Fixed decay exp(-m_h) per token (ALiBi, arXiv 2108.12409).

    For H a power of two the slopes m_h are the geometric sequence that starts at 2^(-exponent/H) with that
    ratio. For other H they are those of the power of two below H, followed by every second one of the
    sequence for twice as many. With ``among`` = (first, H) the heads are those from number ``first`` on of H.
    """

    exponent: float = 8.0
    among: tuple[int, int] | None = None

    retention = "head"

    def slopes(self, heads: int) -> list[float]:
        """The slope m_h of each head."""
        numbers, total = numbers_of_heads(heads, self.among)
        whole = 2 ** math.floor(math.log2(total))
        slopes = [2.0 ** (-self.exponent * (h + 1) / whole) for h in range(whole)]
        between = [2.0 ** (-self.exponent * (h + 0.5) / whole) for h in range(whole)]
        return [(slopes + between)[number] for number in numbers]

    def at_heads(self, first: int, heads: int) -> Alibi:
        return replace(self, among=(first, heads))

    def log_retention(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor
    ) -> Tensor:
        return -of_heads(self.slopes(heads), like)

    def formulas(self) -> dict[str, str]:
        return {
            "weight": (
                f"gamma_i^(t) = exp(-m_h (t - i)), m_h = 2^(-{self.exponent:g} h / H) in head h = "
                "1, ..., H for H a power of 2"
            ),
            "decay": "D_t = exp(-m_h)",
        }

    @classmethod
    def examples(cls) -> tuple[Alibi, ...]:
        return (cls(exponent=3.0),)
