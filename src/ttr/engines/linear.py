"""What the engines of linear recurrences share: from a call to the recurrence, and back."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.engines import linear_operator as operator
from ttr.engines.engine import Engine
from ttr.engines.torch.chunks import check_chunk
from ttr.forms.linear_recurrence import Recurrence
from ttr.forms.lowering import finish, linear_form, widen_state
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


@dataclass(frozen=True)
class LinearEngine(Engine):
    """Runs memories that are a matrix which fades, is written to and, with a solver that corrects, erased at
    a key."""

    chunk: int = 32

    def __post_init__(self) -> None:
        check_chunk(self.chunk)

    def small(self) -> Engine:
        return type(self)(chunk=4)

    @abstractmethod
    def recur(self, r: Recurrence, wants_grad: bool) -> tuple[Tensor, Tensor]:
        """y [B,T,H,V] and the final memory [B,H,F,V]."""

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        form = linear_form(problem, x)
        r = form.recurrence(widen_state(problem, x))
        if r.memory.numel() == 0:  # of no features, values or rows: nothing is learned, and what is read is 0
            y, memory = torch.einsum("bthf,bhfv->bthv", r.query, r.memory), r.memory
        else:
            y, memory = self.recur(r, x.wants_grad)
        if form.bonus is not None:
            y = y + (form.query * form.bonus * form.key).sum(-1, keepdim=True) * form.value
        return finish(problem, x, y, memory, form)


class OperatorEngine(LinearEngine):
    """A linear engine whose recurrence is the torch operator, run by the kernel of the engine's name."""

    composite: ClassVar[bool] = False
    compiles: ClassVar[bool] = True

    def recur(self, r: Recurrence, wants_grad: bool) -> tuple[Tensor, Tensor]:
        return operator.run(self.name, r, self.chunk, wants_grad)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.memory != "matrix" or not (
            problem.solver.additive or problem.solver.gradient_at is not None
        ):
            return (
                "It runs memories that are a matrix to which pairs are added or at which a step corrects "
                "them."
            )
        if x is not None and x.q.device.type != "cpu":
            return "It cuts its work for the caches of a CPU."
        return None
