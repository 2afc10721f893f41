from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ttr.problem import Function, Solver, Weights


@dataclass(frozen=True)
class LearnedSlope(Solver):
    """The local linear fit with its solve replaced by the control ``slope``, a vector r_t per token: y_t =
    vbar - Cov_p(v, k) r_t = sum_i p_i (1 - (k_i - kbar).r_t) v_i with p the kernel weights normalised to sum
    1 (Parallax, 2605.29157).

    r = (Cov_p(k) + diag(ridge))^-1 (kbar - q) would be the exact fit, r = 0 is softmax attention. r.k is not
    scaled.
    """

    exact: ClassVar[Literal["local"]] = "local"

    def controls(self) -> dict[str, str]:
        return {"slope": "BTHK"}

    def replaces(self) -> tuple[str, ...]:
        return ("ridge",)

    def formulas(self) -> dict[str, str]:
        return {
            "objective": ("sum_{i<=t} p_i ||v_i - m_t(k_i)||^2 / 2, with slope_t in place of its solution"),
            "update": "the pairs themselves are stored, each with its log gamma_i^(t)",
            "order": "decay, then write, then read",
            "read-out": "y_t = sum_{i<=t} p_i (1 - (k_i - kbar)^T slope_t) v_i, kbar = sum_{i<=t} p_i k_i",
            "parallel form": (
                "P = softmax(s Q K^T + log Gamma) in blocks of queries, with a second score slope_t^T k_i"
            ),
            "approximation": "A learned vector replaces (Cov_p(k) + diag(ridge))^-1 (kbar - q_t): "
            "the fit is exact where the two are equal, and "
            "softmax attention where it is 0.",
        }

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        if function.local_degree != 1:
            return (
                "LearnedSlope replaces the slope of a local linear fit, and "
                f"{type(function).__name__} has none. Use LocalLinear."
            )
        if function.rank is not None:
            return (
                f"LearnedSlope has a slope for every channel of the keys, and {function!r} fits "
                f"{function.rank}. Use LocalLinear without a rank."
            )
        return None

    @classmethod
    def examples(cls) -> tuple[LearnedSlope, ...]:
        return (cls(),)
