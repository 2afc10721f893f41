from __future__ import annotations

from dataclasses import dataclass

import torch

from ttr.problem import Problem, Weights, Worked


@dataclass(frozen=True)
class Window(Weights):
    """The ``size`` newest pairs count alike, the token's own included, and the others not at all."""

    size: int = 128

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"Window(size={self.size}) remembers nothing. Use a whole number of at least 1.")

    @property
    def window(self) -> int:
        return self.size

    def formulas(self) -> dict[str, str]:
        return {"weight": f"gamma_i^(t) = [t - i < {self.size}], [ ] being 1 if true, else 0"}

    @classmethod
    def examples(cls) -> tuple[Window, ...]:
        return (cls(3),)

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.linear import Linear
        from ttr.solvers.one_step import OneStep

        # The scores q_t.k_i / 2 of the two newest pairs: 6 at t = 1; -2.5, -3.5 at t = 2; 1, -4.5 at t = 3
        # (k_1 has left); -2, 1.5 at t = 4 (k_2 has left). y_3 = v_2 - 4.5 v_3, y_4 = -2 v_3 + 1.5 v_4.
        q, k, v, y = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2], [3, 0.5]],
                [[3, 2], [2, -0.5], [-2, 4], [0.5, 3]],
                [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4], [3, 2, -2.5]],
                [[12, -18, 3], [2, -6.5, -11.75], [-24.5, 6.25, 21], [-5.5, 4, 4.25]],
            )
        )
        return (Worked(Problem(cls(2), Linear(scale=0.5), OneStep()), q, k, v, y),)
