"""Linear recurrences by the compiled kernels, where they were built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ttr.backends.linear.backend import OperatorBackend
from ttr.backends.linear.operator import ENGINES
from ttr.backends.native import library
from ttr.backends.native.engine import NativeEngine
from ttr.inputs import Inputs
from ttr.problem import Problem


@dataclass(frozen=True)
class Native(OperatorBackend):
    """Every linear recurrence of one pair per token; see ``csrc/recurrence.h`` for how."""

    name: ClassVar[str] = "native"
    adaptive: ClassVar[bool] = True  # where decays are strong, products of a chunk take another way

    def missing(self) -> str | None:
        return library.reason()

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.solver.pairs_per_token > 1 or problem.weights.writes_previous:
            return "It runs one pair per token, and this memory writes several."
        return super().refuses(problem, x)


ENGINES[Native.name] = NativeEngine()
