"""The interface of an engine, which runs a problem or says in a sentence why it cannot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from ttr.engines.sources import BoundSequence
from ttr.engines.torch import steps
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


def shape_of(local_degree: int | None) -> str:
    """What a function of local degree ``local_degree`` fits, in words."""
    known = {None: "one map for all queries", 0: "a constant around each", 1: "a line around each"}
    return known.get(local_degree, "a polynomial around each")


class Engine(ABC):
    """Runs problems of the structures that it supports. It shares no update code with the oracle.

    Declared:
        name: its name in ``engine=``.
        composite: made of torch operations alone, so that double backward, functorch and torch.compile work.
        compiles: torch.compile can trace it: composite, or made of registered operators.
        adaptive: chooses its arithmetic per block of tokens (when to stop, what to scale by), so a later
            token may change the result of an earlier one within tolerance.
        most_bound: up to so many tokens ``regress`` binds a call by itself: while its checks take as long as
            the engine.
    """

    name: ClassVar[str]
    composite: ClassVar[bool] = True
    compiles: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False
    most_bound: ClassVar[int] = 64

    def small(self) -> Engine:
        """The same engine with blocks so small that short sequences span several of them, for the laws."""
        return self

    def missing(self) -> str | None:
        """Why this machine cannot run the engine at all, as a sentence with the remedy; None if it can."""
        return None

    @abstractmethod
    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        """Why this engine cannot run the problem (for these inputs), as a sentence; None if it can."""

    @abstractmethod
    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        """The read-outs [B,T,H,V] in the working dtype and the final state."""

    def step(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        """One token: as ``run`` with T = 1."""
        return steps.advance(problem, x)

    def bind(self, problem: Problem, x: Inputs) -> BoundSequence | None:
        """A specialised call for sequences of the sizes of ``x``; None where only ``run`` can compute
        them."""
        return None

    def bind_step(self, problem: Problem, x: Inputs) -> steps.BoundStep | None:
        """A specialised step for tokens of the sizes of ``x``; None where only ``step`` can compute them."""
        return steps.bind(problem, x, compiled=False)
