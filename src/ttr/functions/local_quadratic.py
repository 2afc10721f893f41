from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ttr.functions._kernel import _ExponentialKernel


@dataclass(frozen=True)
class LocalQuadratic(_ExponentialKernel):
    """A quadratic v = b + A z + sum_ab C_ab z_a z_b, z = k - q, fitted around the query with the kernel
    weights exp(scale q.k_i), read at the query: y = b (local polynomials of degree p, arXiv 2501.12352).

    The monomials z_a, z_a^2 and sqrt(2) z_a z_b (a < b) are regularised by the control ``ridge``, relative to
    weights that sum to 1; an equal ridge for all is invariant to rotations, since their dot product is z.z' +
    (z.z')^2.
    """

    local_degree: ClassVar[int] = 2

    def formulas(self) -> dict[str, str]:
        return {
            "prediction": (
                "m_t(k) = b_t + A_t psi(k - q_t), psi(z) = (z_a, z_a^2, sqrt(2) z_a z_b), a < "
                "b, fitted for every query"
            ),
            **super().formulas(),
            "read-out": "y_t = b_t = sum_{i<=t} p_i (1 - (psi_i - psibar)^T rho) v_i, psi_i = psi(k_i - "
            "q_t), psibar = sum_{i<=t} p_i psi_i, "
            "rho = (sum_{i<=t} p_i (psi_i - psibar) (psi_i - psibar)^T + diag(ridge))^-1 "
            "psibar",
        }

    @classmethod
    def examples(cls) -> tuple[LocalQuadratic, ...]:
        return (cls(), cls(scale=1.3, unit_norm=True, learned_scale=True))
