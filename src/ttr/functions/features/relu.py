from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.problem import FeatureMap, Problem, Worked


@dataclass(frozen=True)
class Relu(FeatureMap):
    """phi(x) = max(x, 0), entry by entry (cosFormer, arXiv 2202.08791)."""

    keeps_channels: ClassVar[bool] = True

    def __call__(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return torch.relu(x)

    def formulas(self) -> dict[str, str]:
        return {"features": "phi(x) = max(x, 0)"}

    @classmethod
    def examples(cls) -> tuple[Relu, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.linear import Linear
        from ttr.solvers.one_step import OneStep
        from ttr.weights.uniform import Uniform

        # phi(q) = (2, 3), (0, 2), (0.5, 0), phi(k) = (3, 2), (2, 0), (0, 4). The scores phi(q_t).phi(k_i) / 2
        # are 6 | 2, 0 | 0.75, 0.5, 0.
        q, k, v, y = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2]],
                [[3, 2], [2, -0.5], [-2, 4]],
                [[2, -3, 0.75], [-2, 4, 3], [5, -0.5, -4]],
                [[12, -18, 4.5], [4, -6, 1.5], [0.5, -0.25, 2.0625]],
            )
        )
        return (Worked(Problem(Uniform(), Linear(cls(), scale=0.5), OneStep()), q, k, v, y),)
