from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ttr.forms import CorrectedPairs
from ttr.problem import Function, Solver, Weights


@dataclass(frozen=True)
class FunctionalDeltaRule(Solver):
    """The delta rule in function space: pairs are stored with corrected values (DeltaFormer, arXiv
    2505.19488).

        u_t = v_t - beta_t m_{t-1}(q_t)          y_t = m_t(q_t)

    where m_t is the constant fitted around a query to the pairs (k_j, u_j), j <= t, and beta the control
    ``step_size``. The prediction of the older pairs is read at the token's query, not at its key, and with
    the normalised kernel.
    """

    exact: ClassVar[Literal["local"]] = "local"
    form: ClassVar[type] = CorrectedPairs

    def controls(self) -> dict[str, str]:
        return {"step_size": "BTH"}

    def formulas(self) -> dict[str, str]:
        return {
            "objective": "sum_{i<=t} p_i ||v_i - b_t||^2 / 2 with corrected values v_i",
            "update": "v_t <- v_t - step_size_t sum_{i<t} p_i v_i, p_i = gamma_i^(t) kappa(q_t, k_i) / "
            "sum_{j<t} gamma_j^(t) kappa(q_t, k_j), "
            "stored with k_t",
            "order": (
                "decay, then correct the value by the prediction of the older pairs at the query, "
                "then write, then read"
            ),
            "parallel form": (
                "(I + diag(step_size) P) U = V by substitution, P the softmax over j < t; "
                "Y is the softmax over j <= t times U"
            ),
            "approximation": "A functional gradient step would measure the error at the key and with "
            "the kernel as it is; here it is measured at "
            "the query, through weights that sum to 1.",
        }

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        if function.local_degree != 0:
            return (
                f"{type(self).__name__} corrects values by the constant fitted around the query, and "
                f"{type(function).__name__} fits another map. "
                "Use LocalConstant, or ExactLocalFit."
            )
        return None

    @classmethod
    def examples(cls) -> tuple[FunctionalDeltaRule, ...]:
        return (cls(),)
