"""Decayed sums of pairs, chunk by chunk: linear attention and its gated forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ttr.engines.linear import LinearEngine
from ttr.engines.torch.linear import chunkwise
from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.inputs import Inputs
from ttr.problem import Problem


@dataclass(frozen=True)
class ChunkwiseAdditive(LinearEngine):
    """S_t = D_t S_{t-1} + k_t v_t^T, all chunks at once: see ``chunkwise.additive``."""

    name: ClassVar[str] = "chunkwise-additive"

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.form is not LinearRecurrence or not problem.solver.additive:
            return (
                "It runs memories that are a sum of pairs, each written once and then only decayed, over "
                "the whole past."
            )
        return None

    def recur(self, r: LinearRecurrence, wants_grad: bool) -> tuple[Tensor, Tensor]:
        return chunkwise.run(r, self.chunk)
