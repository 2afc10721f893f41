from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ttr.functions._kernel import _ExponentialKernel


@dataclass(frozen=True)
class LocalConstant(_ExponentialKernel):
    """A constant fitted around the query with the kernel weights exp(scale q.k_i): softmax attention (arXiv
    1706.03762).

    With ``unit_norm`` queries and keys are normalised, and the kernel is a Gaussian of their distance (arXiv
    2010.04245); ``learned_scale`` makes the scale a parameter per head.
    """

    local_degree: ClassVar[int] = 0

    def formulas(self) -> dict[str, str]:
        return {
            "prediction": "m_t(k) = b_t, fitted for every query",
            **super().formulas(),
            "read-out": "y_t = b_t = sum_{i<=t} p_i v_i",
        }

    @classmethod
    def examples(cls) -> tuple[LocalConstant, ...]:
        return (cls(), cls(scale=1.7, unit_norm=True, learned_scale=True))
