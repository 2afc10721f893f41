from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.problem import Problem, Worked
from ttr.weights._rotating import _Rotating


@dataclass(frozen=True)
class Cosine(_Rotating):
    """A pair that is n tokens old counts cos(pi n / (2 horizon)): Re of a fixed phase per token (cosFormer,
    arXiv 2202.08791).

    The weights fall from 1 to 0 within ``horizon`` tokens and would be negative after; calls beyond it are
    refused. The original takes the length of the call, so that a longer call changes earlier outputs; a fixed
    horizon makes the layer causal.
    """

    horizon: int = 4096

    rotation = "head"

    def __post_init__(self) -> None:
        if not isinstance(self.horizon, int) or self.horizon < 1:
            raise ValueError(
                f"Cosine(horizon={self.horizon}) sees no token. Use the length of the longest "
                "sequence, a whole number of at least 1."
            )

    def phase(self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], like: Tensor) -> Tensor:
        return torch.full((), math.pi / (2 * self.horizon), dtype=like.dtype, device=like.device)

    def formulas(self) -> dict[str, str]:
        return super().formulas() | {
            "weight": (
                f"gamma_i^(t) = cos(pi (t - i) / {2 * self.horizon}) for the first {self.horizon} tokens"
            ),
            "decay": f"D_t = exp(sqrt(-1) pi / {2 * self.horizon})",
        }

    @classmethod
    def examples(cls) -> tuple[Cosine, ...]:
        return (cls(horizon=160),)

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.linear import Linear
        from ttr.solvers.one_step import OneStep

        # The scores q_t.k_i / 2 are: 6 at t = 1; -2.5, -3.5 at t = 2; -1.25, 1, -4.5 at t = 3. With the
        # horizon 3 a pair of age 1 counts cos 30 = r = sqrt(3) / 2 and one of age 2 cos 60 = 1/2: y_2 = -2.5
        # r v_1 - 3.5 v_2, y_3 = -0.625 v_1 + r v_2 - 4.5 v_3.
        r = 3**0.5 / 2
        q, k, v, y = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2]],
                [[3, 2], [2, -0.5], [-2, 4]],
                [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
                [
                    [12, -18, 3],
                    [7 - 5 * r, 7.5 * r - 14, -1.25 * r - 10.5],
                    [-23.75 - 2 * r, 4.125 + 4 * r, 17.6875 + 3 * r],
                ],
            )
        )
        return (Worked(Problem(cls(horizon=3), Linear(scale=0.5), OneStep()), q, k, v, y),)
