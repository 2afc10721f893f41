"""The delta rule and its gated forms, chunk by chunk."""

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
class ChunkwiseDelta(LinearEngine):
    """S_j = D_j S_{j-1} + k_j w_j^T, one triangular system per chunk: see ``chunkwise.delta``."""

    name: ClassVar[str] = "chunkwise-delta"

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.form is not LinearRecurrence or problem.solver.additive:
            return "It runs memories that each pair corrects at a key: the delta rule and its variants."
        return None

    def recur(self, r: LinearRecurrence, wants_grad: bool) -> tuple[Tensor, Tensor]:
        return chunkwise.run(r, self.chunk)
