from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ttr.functions._kernel import _ExponentialKernel


@dataclass(frozen=True)
class LocalLinear(_ExponentialKernel):
    """A line v = b + A (k - q) fitted around the query, pair i counting exp(scale q.k_i), read at the query: y = b.

    The slope A is regularised by the control ``ridge``, relative to weights that sum to 1 (arXiv 2501.12352, 2510.01450).
    ``unit_norm`` affects the kernel only; the displacement k - q always takes the vectors as they are.
    """

    local_degree: ClassVar[int] = 1

    def controls(self) -> dict[str, str]:
        return {"ridge": "HF"}

    @classmethod
    def examples(cls) -> tuple[LocalLinear, ...]:
        return (cls(), cls(scale=1.3, unit_norm=True))
