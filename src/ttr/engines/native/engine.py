"""Linear recurrences on the compiled kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ttr.engines import specialised_sequence
from ttr.engines.engine import Engine
from ttr.engines.linear import OperatorEngine
from ttr.engines.linear_operator import KERNELS
from ttr.engines.native import library, step
from ttr.engines.native.recurrence import NativeKernel
from ttr.engines.sources import BoundSequence
from ttr.engines.torch import steps
from ttr.engines.torch.steps import BoundStep
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


class CompiledStep(Engine):
    """One token of a linear recurrence through the compiled kernel, where it can serve the call."""

    def step(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        if not step.usable(x):
            return super().step(problem, x)
        form = problem.lower(x)
        return form.finish(x, *step.advance(form, x.owns_state))

    def bind_step(self, problem: Problem, x: Inputs) -> BoundStep | None:
        return steps.bind(problem, x, compiled=step.usable(x))


@dataclass(frozen=True)
class Native(CompiledStep, OperatorEngine):
    """Every linear recurrence; see ``csrc/recurrence.h`` for how."""

    name: ClassVar[str] = "native"

    def bind(self, problem: Problem, x: Inputs) -> BoundSequence | None:
        return specialised_sequence.bind(problem, x, self.name, self.chunk)

    def missing(self) -> str | None:
        return library.reason()


KERNELS[Native.name] = NativeKernel()
