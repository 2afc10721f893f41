from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.problem import FeatureMap, Problem, Worked


@dataclass(frozen=True)
class Taylor(FeatureMap):
    """phi(q).phi(k) = 1 + u + u^2/2 with u = q.k / K^(1/2): exp(u) to second order (Based, arXiv 2402.18668).

    phi(x) = [1, x_i / K^(1/4), x_i x_j / K^(1/2) (i < j), x_i^2 / (2K)^(1/2)], F = 1 + K + K(K+1)/2 entries.
    """

    def size(self, key_size: int) -> int:
        return 1 + key_size + key_size * (key_size + 1) // 2

    def __call__(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        size = x.shape[-1]
        first, second = torch.triu_indices(size, size, offset=1, device=x.device)
        products = x[..., first] * x[..., second]
        return torch.cat(
            [x.new_ones(*x.shape[:-1], 1), x / size**0.25, products / size**0.5, x * x / (2 * size) ** 0.5],
            dim=-1,
        )

    def formulas(self) -> dict[str, str]:
        return {
            "features": "phi(x) = (1, x_i / K^(1/4), x_i x_j / K^(1/2), x_i^2 / (2 K)^(1/2)), i < j, "
            "so phi(q)^T phi(k) = 1 + u + u^2 / 2, u = q^T k / K^(1/2)"
        }

    @classmethod
    def examples(cls) -> tuple[Taylor, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.linear import Linear
        from ttr.solvers.one_step import OneStep
        from ttr.weights.uniform import Uniform

        # With d = q_t.k_i the kernel is 1 + d r + d^2 / 4, r = 1 / sqrt(2). d = 12 | -5, -7 | -2.5, 2, -9, so
        # the kernel over 2 is 18.5 + 6 r | 3.625 - 2.5 r, 6.625 - 3.5 r | 1.28125 - 1.25 r, 1 + r, 10.625 -
        # 4.5 r, and y_t the sum of these times v_i.
        r = 0.5**0.5
        q, k, v, y = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2]],
                [[3, 2], [2, -0.5], [-2, 4]],
                [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
                [
                    [37 + 12 * r, -55.5 - 18 * r, 9.25 + 3 * r],
                    [-6 + 2 * r, 15.625 - 6.5 * r, 21.6875 - 11.75 * r],
                    [53.6875 - 27 * r, -5.15625 + 10 * r, -38.859375 + 20.375 * r],
                ],
            )
        )
        return (Worked(Problem(Uniform(), Linear(cls(), scale=0.5), OneStep()), q, k, v, y),)
