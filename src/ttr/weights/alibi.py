from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.problem import Problem, Weights, Worked


@dataclass(frozen=True)
class Alibi(Weights):
    """Fixed forgetting exp(-m_h) per token (ALiBi, arXiv 2108.12409).

    For H a power of two the slopes m_h are the geometric sequence that starts at 2^(-exponent/H) with that
    ratio. For other H they are those of the power of two below H, followed by every second one of the
    sequence for twice as many.
    """

    exponent: float = 8.0

    retention = "head"

    def slopes(self, heads: int) -> list[float]:
        """The slope m_h of each head."""
        whole = 2 ** math.floor(math.log2(heads))
        slopes = [2.0 ** (-self.exponent * (h + 1) / whole) for h in range(whole)]
        between = [2.0 ** (-self.exponent * (h + 0.5) / whole) for h in range(whole)]
        return slopes + between[: heads - whole]

    def log_retention(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor
    ) -> Tensor:
        return -torch.tensor(self.slopes(heads), dtype=like.dtype, device=like.device)

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

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.linear import Linear
        from ttr.solvers.one_step import OneStep

        # Six heads with the same q, k, v. Four is the power of two below: slopes 2^-1.5, 2^-3, 2^-4.5, 2^-6
        # (ratio 2^(-6/4)). The other two take the first and third of the sequence for eight heads (ratio
        # 2^(-6/8)): 2^-0.75 and 2^-2.25.
        # The scores q_t.k_i / 2 are: 6 at t = 1; -2.5, -3.5 at t = 2; -1.25, 1, -4.5 at t = 3.
        # With a = exp(-slope): y_1 = 6 v_1, y_2 = -2.5 a v_1 - 3.5 v_2, y_3 = -1.25 a^2 v_1 + a v_2 - 4.5
        #     v_3.
        q, k, v = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2]],
                [[3, 2], [2, -0.5], [-2, 4]],
                [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            )
        )
        y = torch.tensor(
            [
                [
                    [12, -18, 3],
                    [7 - 5 * a, 7.5 * a - 14, -1.25 * a - 10.5],
                    [-22.5 - 2 * a - 2.5 * a * a, 2.25 + 4 * a + 3.75 * a * a, 18 + 3 * a - 0.625 * a * a],
                ]
                for a in (math.exp(-(2.0**power)) for power in (-1.5, -3, -4.5, -6, -0.75, -2.25))
            ],
            dtype=torch.float64,
        )
        return (
            Worked(
                Problem(cls(exponent=6.0), Linear(scale=0.5), OneStep()),
                q.expand(-1, -1, 6, -1),
                k,
                v,
                y.transpose(0, 1)[None],
            ),
        )
