from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.problem import Function, Pair
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

    def __post_init__(self) -> None:
        if self.iterations < 1 or not self.ratio > 0:
            raise ValueError(
                f"{self!r} solves nothing. Use at least 1 iteration and a ratio above 0, such "
                "as Chebyshev(iterations=30, ratio=0.02)."
            )

    def controls(self) -> dict[str, str]:
        return {"mix": "BTH"}

    def polynomial(self) -> tuple[float, ...]:
        """The coefficients of x in T_k(S), S = (theta - A) / delta = 1 - 2 H / f with A = H + lambda, delta =
        f / 2 and theta = lambda + delta.

        After n - 1 steps A x = (1 - T_n(S) / T_n(sigma)) q with sigma = theta / delta (Saad, Iterative
        methods for sparse linear systems, section 12.3.2), A = delta (sigma - S), and

            (T_n(sigma) - T_n(S)) / (sigma - S) = U_{n-1}(sigma) + 2 sum_{k=1}^{n-1} U_{n-1-k}(sigma) T_k(S).

        With xi = arccosh(sigma), U_{m-1}(sigma) = sinh(m xi) / sinh(xi) and T_n(sigma) = cosh(n xi), of which
        no positive argument is exponentiated.
        """
        n, xi = self.iterations + 1, math.acosh(1 + 2 * self.ratio)
        scale = math.sinh(xi) * (1 + math.exp(-2 * n * xi))
        sines = (-math.exp(-k * xi) * math.expm1(-2 * (n - k) * xi) for k in range(n))
        return tuple((2 if k else 1) * sine / scale for k, sine in enumerate(sines))

    def iterate(self, product: Callable[[Tensor], Tensor], squared_norm: Tensor, right: Tensor) -> Tensor:
        """x = (2 / f) sum_k c_k t_k with t_k = T_k(S) q: t_{k+1} = t_k + e_{k+1}, e_{k+1} = e_k - (4 / f) H
        t_k and e_1 = -(2 / f) H q, which is t_{k+1} = 2 S t_k - t_{k-1} in its differences.

        2 S t, whose rounding errors hide small eigenvalues, is not formed, and no t_k is longer than q. In
        Clenshaw's recurrence the sums grow with their number, and with them the rounding errors: two to five
        times as large in float32.
        """
        scale = (4 / _norm(squared_norm, right.dtype))[..., None].to(right)
        first, *others = self.polynomial()
        power, change, total = right, torch.zeros_like(right), first * right
        for k, coefficient in enumerate(others):
            change = change - product(power) * (scale if k else scale / 2)
            power = power + change
            total = total + coefficient * power
        return scale / 2 * total

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


def _norm(squared: Tensor, dtype: torch.dtype) -> Tensor:
    """||H||_F of moments in ``dtype``, from its square; 1 where H, and with it the output, counts as 0: where
    entries within the rounding error of the norm, or of its square, are subnormal numbers, H has lost
    digits, and soon 1 / ||H||_F would leave the range of ``dtype``."""
    own, wide = torch.finfo(dtype), torch.finfo(squared.dtype)
    smallest = max((own.tiny / own.eps) ** 2, wide.tiny / wide.eps)
    return torch.where(squared > smallest, squared, 1.0).sqrt()
