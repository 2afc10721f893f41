from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.problem import Problem, Weights, Worked


@dataclass(frozen=True)
class MultiScale(Weights):
    """Fixed forgetting, one rate per head: head h keeps 1 - 2^-(first + h) of the past (RetNet, arXiv
    2307.08621).

    With ``last`` the exponents go in even steps from ``first`` to ``last`` whatever the number of heads.
    """

    first: float = 5.0
    last: float | None = None

    retention = "head"

    def __post_init__(self) -> None:
        if self.first <= 0 or self.last is not None and self.last <= 0:
            raise ValueError(f"{self!r} keeps nothing in one of its heads. Use numbers above 0.")

    def log_retention(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor
    ) -> Tensor:
        step = 1.0 if self.last is None else (self.last - self.first) / max(heads - 1, 1)
        rates = [math.log1p(-(2.0 ** -(self.first + step * h))) for h in range(heads)]
        return torch.tensor(rates, dtype=like.dtype, device=like.device)

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

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.linear import Linear
        from ttr.solvers.one_step import OneStep

        # The scores q_t.k_i / 2 are: 6 at t = 1; -2.5, -3.5 at t = 2; -1.25, 1, -4.5 at t = 3.
        # Two heads with the same q, k, v keep r = 1 - 1/8 = 0.875 and 1 - 1/16 = 0.9375 of the past:
        # y_1 = 6 v_1, y_2 = -2.5 r v_1 - 3.5 v_2, y_3 = -1.25 r^2 v_1 + r v_2 - 4.5 v_3.
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
                    [[12, -18, 3], [12, -18, 3]],
                    [[2.625, -7.4375, -11.59375], [2.3125, -6.96875, -11.671875]],
                    [[-26.1640625, 8.62109375, 20.146484375], [-26.572265625, 9.2958984375, 20.26318359375]],
                ]
            ],
            dtype=torch.float64,
        )
        # Three heads from 2 to 4 keep 0.75, 0.875 and 0.9375.
        even = torch.tensor(
            [
                [
                    [12, -18, 3],
                    [7 - 5 * r, 7.5 * r - 14, -1.25 * r - 10.5],
                    [-22.5 - 2 * r - 2.5 * r * r, 2.25 + 4 * r + 3.75 * r * r, 18 + 3 * r - 0.625 * r * r],
                ]
                for r in (0.75, 0.875, 0.9375)
            ],
            dtype=torch.float64,
        )
        return (
            Worked(Problem(cls(first=3.0), Linear(scale=0.5), OneStep()), q.expand(-1, -1, 2, -1), k, v, y),
            Worked(
                Problem(cls(first=2.0, last=4.0), Linear(scale=0.5), OneStep()),
                q.expand(-1, -1, 3, -1),
                k,
                v,
                even.transpose(0, 1)[None],
            ),
        )
