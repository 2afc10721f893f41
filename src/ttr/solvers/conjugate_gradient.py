from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.problem import Function, Pair, Problem, Worked
from ttr.solvers._moments import _Moments


@dataclass(frozen=True)
class ConjugateGradient(_Moments):
    """Ridge regression by ``iterations`` steps of conjugate gradient from x = 0 on (H_t + diag(ridge)) x =
    q_t, read as y_t = U_t^T x_t (MesaNet as released, arXiv 2506.05233).

    ``damping`` is added to both denominators of every step, so that steps beyond convergence do nothing. The
    layer is defined
    by exactly these steps: with few it is not ``ExactRidge``, and it is not linear in q.
    """

    iterations: int = 30
    damping: float = 1e-5

    iteration: ClassVar[Literal["conjugate gradient"]] = "conjugate gradient"

    def __post_init__(self) -> None:
        if self.iterations < 1 or not self.damping > 0:
            raise ValueError(
                f"ConjugateGradient(iterations={self.iterations}, damping={self.damping}) "
                "divides 0 by 0 once it has converged, "
                "or solves nothing. Use at least 1 iteration and a damping above 0, or "
                "ExactRidge."
            )

    def controls(self) -> dict[str, str]:
        return {"ridge": "HF"}

    def formulas(self) -> dict[str, str]:
        return super().formulas() | {
            "objective": "sum_{i<=t} gamma_i^(t) ||v_i - S^T phi(k_i)||^2 / 2 + tr(S^T diag(ridge) S) / 2",
            "order": "decay, then write, then iterate and read; the ridge does not decay",
            "read-out": (
                f"y_t = U_t^T x_t, x_t ~ (H_t + diag(ridge))^-1 s phi(q_t) after {self.iterations} steps"
            ),
            "approximation": f"The ridge regression is solved by {self.iterations} steps of conjugate "
            "gradient from 0, their denominators damped by "
            f"{self.damping:g}; with few steps that is not the solution, and not linear in "
            "the query.",
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
        matrix = after["gram"] + torch.diag_embed(pair.controls["ridge"])
        x, residual, direction = torch.zeros_like(query), query, query
        for _ in range(self.iterations):
            image = torch.einsum("bhfg,bhg->bhf", matrix, direction)
            energy = (residual * residual).sum(-1, keepdim=True)
            alpha = energy / ((direction * image).sum(-1, keepdim=True) + self.damping)
            x, residual = x + alpha * direction, residual - alpha * image
            direction = (
                residual + (residual * residual).sum(-1, keepdim=True) / (energy + self.damping) * direction
            )
        return torch.einsum("bhfv,bhf->bhv", after["memory"], x)

    @classmethod
    def examples(cls) -> tuple[ConjugateGradient, ...]:
        return (cls(iterations=2, damping=0.05),)

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.linear import Linear
        from ttr.weights.geometric import Geometric
        from ttr.weights.importance import Importance
        from ttr.weights.product import Product

        # Two iterations, damping 0.3, on A = H + diag(0.5, 2) and b = q / 2. gamma, from decays 0.5, 0.8,
        # 0.25 and importances 0.5, 3, 0.25, is 0.5 | 0.4, 3 | 0.1, 0.75, 0.25. A = [[0.625, 0.5], [., 4]],
        # [[7.35, -1.85], [., 4.35]], [[2.275, -0.65], [., 3.15]]; U = [[0.5, -0.75, 1], [2, -3, 4]], [[-8.6,
        # 17.4, 14.3], [4.6, -8.4, -1.3]], [[-2.775, 4.4125, 4.075], [3.025, -2.2875, -1.825]]. b.b = 3.25,
        # 3.25, 1.0625 and b.A b = 11.125, 26.4375, 3.6171875: alpha_1 = b.b / (b.A b + 0.3) = 0.284463894967,
        # 0.121552127162, 0.271240526526; r = b - alpha_1 A b = (0.608862144420, -0.349015317287),
        # (0.064983637214, 0.133941093969), (-0.080574391703, -0.101515755884); beta = r.r / (b.b + 0.3) =
        # 0.138739381017, 0.006243123876, 0.012328573425; p = r + beta b, alpha_2 = r.r / (p.A p + 0.3) =
        # 0.790069744204, 0.058420316105, 0.048970191909; x = alpha_1 b + alpha_2 p = (0.875121240936,
        # 0.315370080905), (-0.179078914021, 0.129741733482), (0.064015321358, -0.276815505180); y = U^T x.
        q, k, v, y = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2]],
                [[0.5, 2], [1.5, -0.5], [-0.5, 1.5]],
                [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4]],
                [
                    [1.068300782278, -1.602451173416, 2.136601564555],
                    [2.136890634597, -4.205803665214, -2.729492724028],
                    [-1.015009419938, 0.915683073593, 0.766050731489],
                ],
            )
        )
        controls = {
            "ridge": torch.tensor([[0.5, 2]], dtype=torch.float64),
            "log_decay": torch.tensor([[[0.5], [0.8], [0.25]]], dtype=torch.float64).log(),
            "log_importance": torch.tensor([[[0.5], [3], [0.25]]], dtype=torch.float64).log(),
        }
        problem = Problem(
            Product((Geometric(), Importance())), Linear(scale=0.5), cls(iterations=2, damping=0.3)
        )
        return (Worked(problem, q, k, v, y, controls),)
