"""The common part of the engines of linear recurrences: from a call to the recurrence, and back."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.engines import linear_operator
from ttr.engines.engine import Engine
from ttr.engines.torch.chunks import check_chunk
from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


@dataclass(frozen=True)
class LinearEngine(Engine):
    """Runs memories that are a matrix: it decays, is written to and, with an error-correcting solver, erased
    at a key."""

    chunk: int = 32

    def __post_init__(self) -> None:
        check_chunk(self.chunk)

    def small(self) -> Engine:
        return type(self)(chunk=4)

    @abstractmethod
    def recur(self, r: LinearRecurrence, wants_grad: bool) -> tuple[Tensor, Tensor]:
        """y [B,T,H,V] and the final memory [B,H,F,V]. T may be 0; B, H, F and V are not."""

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        form = problem.lower(x)
        # without features, values or sequences nothing is learned, and the read-out is 0
        if form.memory.numel() == 0:
            y, memory = torch.einsum("bthf,bhfv->bthv", form.query, form.memory), form.memory
        else:
            y, memory = self.recur(form, x.wants_grad)
        return form.finish(x, y, memory)


class OperatorEngine(LinearEngine):
    """A linear engine that calls the torch operator of the recurrence with the kernel of the engine's
    name."""

    composite: ClassVar[bool] = False
    compiles: ClassVar[bool] = True

    def recur(self, r: LinearRecurrence, wants_grad: bool) -> tuple[Tensor, Tensor]:
        return linear_operator.run(self.name, r, self.chunk, wants_grad)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.form is not LinearRecurrence:
            return (
                "It runs memories that are a matrix, to which pairs are added or which a delta rule corrects."
            )
        if x is not None and x.q.device.type != "cpu":
            return "It runs on CPUs only: its blocks are sized for the caches of a CPU."
        return None
