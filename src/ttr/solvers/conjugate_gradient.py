from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.problem import Function, Pair
from ttr.solvers._moments import _Moments


@dataclass(frozen=True)
class ConjugateGradient(_Moments):
    """Ridge regression by ``iterations`` steps of conjugate gradient from x = 0 on (H_t + diag(ridge)) x =
    q_t, read as y_t = U_t^T x_t (MesaNet as released, arXiv 2506.05233).

    ``damping`` is added to both denominators of every step, so that steps beyond convergence do nothing. The
    layer is defined by exactly these steps: with few it is not ``ExactRidge``, and it is not linear in q.
    """

    iterations: int = 30
    damping: float = 1e-5

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

    def iterate(self, product: Callable[[Tensor], Tensor], squared_norm: Tensor, right: Tensor) -> Tensor:
        """x of damped conjugate gradient from 0; ``product`` includes the ridge."""
        x, residual, direction = torch.zeros_like(right), right, right
        energy = right.square().sum(-1, keepdim=True)
        for _ in range(self.iterations):
            image = product(direction)
            step = energy / ((direction * image).sum(-1, keepdim=True) + self.damping)
            x, residual = x + step * direction, residual - step * image
            before, energy = energy, residual.square().sum(-1, keepdim=True)
            direction = residual + energy / (before + self.damping) * direction
        return x

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
