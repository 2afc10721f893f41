from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.problem import Function, Pair, Problem, Worked
from ttr.solvers._moments import _Moments


@dataclass(frozen=True)
class Chebyshev(_Moments):
    """Ridge regression by ``iterations`` steps of Chebyshev iteration, mixed with linear attention (Gated
    KalmaNet, 2511.21016).

    x_t solves (H_t + lambda_t I) x = q_t approximately with lambda_t = ``ratio`` ||H_t||_F, which depends on
    the data and on t; y_t = U_t^T (mix_t x_t + (1 - mix_t) q_t), H_t = sum_i gamma_i k_i k_i^T and U_t =
    sum_i gamma_i k_i v_i^T. The layer is defined by exactly these steps, which start at x = 2 q / (2 lambda +
    ||H||_F).
    """

    iterations: int = 30
    ratio: float = 0.02

    iteration: ClassVar[Literal["chebyshev"]] = "chebyshev"

    def __post_init__(self) -> None:
        if self.iterations < 1 or not self.ratio > 0:
            raise ValueError(
                f"{self!r} solves nothing. Use at least 1 iteration and a ratio above 0, such "
                "as Chebyshev(iterations=30, ratio=0.02)."
            )

    def controls(self) -> dict[str, str]:
        return {"mix": "BTH"}

    def formulas(self) -> dict[str, str]:
        return super().formulas() | {
            "objective": "sum_{i<=t} gamma_i^(t) ||v_i - S^T phi(k_i)||^2 / 2 + lambda_t ||S||^2 / 2, "
            f"lambda_t = {self.ratio:g} ||H_t||_F",
            "read-out": "y_t = s U_t^T (mix_t x_t + (1 - mix_t) phi(q_t)), x_t ~ (H_t + lambda_t I)^-1 "
            "phi(q_t) "
            f"after {self.iterations} steps",
            "approximation": f"The ridge regression is solved by {self.iterations} steps of Chebyshev "
            "iteration for eigenvalues between lambda and "
            "lambda + ||H||_F, a polynomial of H in place of the inverse, and the read-out "
            "of linear attention is mixed in.",
        }

    def read(
        self,
        function: Function,
        params: Mapping[str, Tensor],
        before: Mapping[str, Tensor],
        after: Mapping[str, Tensor],
        query: Tensor,
        pair: Pair,
    ) -> Tensor:
        gram = after["gram"]
        squared = gram.square().sum((-2, -1))
        # an empty memory reads 0 whatever x is
        norm = torch.where(squared > 0, squared, 1.0).sqrt()[..., None]
        ridge = self.ratio * norm
        step = 2 / (2 * ridge + norm)
        quarter = (norm / (2 * ridge + norm) / 2).square()
        previous, x, omega = torch.zeros_like(query), step * query, 2.0
        for _ in range(self.iterations):
            omega = 1 / (1 - quarter * omega)
            residual = torch.einsum("bhfg,bhg->bhf", gram, x) + ridge * x - query
            previous, x = x, omega * (x - step * residual) - (omega - 1) * previous
        mix = pair.controls["mix"][..., None]
        return torch.einsum("bhfv,bhf->bhv", after["memory"], mix * x + (1 - mix) * query)

    @classmethod
    def examples(cls) -> tuple[Chebyshev, ...]:
        return (cls(iterations=6),)

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.linear import Linear
        from ttr.weights.geometric import Geometric
        from ttr.weights.importance import Importance
        from ttr.weights.product import Product

        # One iteration. The residual of n is T_{n+1}((theta - A) / delta) / T_{n+1}(theta / delta) with A = H
        # + lambda, theta = lambda + f / 2, delta = f / 2 and f = ||H||_F. T_2(u) = 2 u^2 - 1 gives x = 2
        # ((lambda + f) q - H q) / (2 lambda^2 + 2 lambda f + f^2 / 4), which for lambda = f / 2 is 8/7 (1.5 q
        # / f - H q / f^2). gamma, from decays 0.5, 0.8, 0.25 and importances 0.5, 3, 0.25, is 0.5 | 0.4, 3 |
        # 0.1, 0.75, 0.25. H = [[0.125, 0.5], [., 2]], [[6.85, -1.85], [., 2.35]], [[1.775, -0.65], [.,
        # 1.15]]; f = 2.125, 7.7, sqrt(5.318125); U = [[0.5, -0.75, 1], [2, -3, 4]], [[-8.6, 17.4, 14.3],
        # [4.6, -8.4, -1.3]], [[-2.775, 4.4125, 4.075], [3.025, -2.2875, -1.825]]. q / 2 is read with scale
        # 0.5; for q itself H q = (1.75, 7), (-24.25, 10.25), (2.1875, -2.625), x = (1.170538803757,
        # 0.648541769649), (-0.200467436089, 0.247692937860), (-0.098406429444, -0.922627661000), and mix 0.6,
        # 0.3, 0.8 gives (1.502323282254, 1.589125061789), (-2.160140230827, 1.474307881358), (0.021274856445,
        # -1.138102128800).
        q, k, v, y = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2]],
                [[0.5, 2], [1.5, -0.5], [-0.5, 1.5]],
                [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4]],
                [
                    [1.964705882353, -2.947058823529, 3.929411764706],
                    [12.679511119678, -24.985313109896, -16.403302773293],
                    [-1.750898333127, 1.348641961847, 1.081865712537],
                ],
            )
        )
        controls = {
            "mix": torch.tensor([[[0.6], [0.3], [0.8]]], dtype=torch.float64),
            "log_decay": torch.tensor([[[0.5], [0.8], [0.25]]], dtype=torch.float64).log(),
            "log_importance": torch.tensor([[[0.5], [3], [0.25]]], dtype=torch.float64).log(),
        }
        return (
            Worked(
                Problem(
                    Product((Geometric(), Importance())), Linear(scale=0.5), cls(iterations=1, ratio=0.5)
                ),
                q,
                k,
                v,
                y,
                controls,
            ),
        )
