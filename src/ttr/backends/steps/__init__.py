"""The update of one token: what decoding does and what the recurrent backend repeats. One file per kind of state."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ttr.backends.native import step as native_step
from ttr.backends.native.step import BoundStep
from ttr.backends.steps import chunked_network, levels, matrix, moments, momentum, network, pairs, reverse
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State

STEPS: dict[str, Callable[[Problem, Inputs], tuple[Tensor, State]]] = {
    "matrix": matrix.advance, "moments": moments.advance, "pairs": pairs.advance,
    "momentum": momentum.advance, "reverse": reverse.advance,
    "levels": levels.advance,
    "network": network.advance, "chunked-network": chunked_network.advance,
}
"""``Problem.memory`` -> the function that gives the read-out [B,1,H,V] and the state after the one token of the inputs."""


def advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    """Read-out [B,1,H,V] and state after the one token of ``x``."""
    return STEPS[problem.memory](problem, x)


def bind(problem: Problem, x: Inputs) -> BoundStep | None:
    """A call for tokens like the one of ``x`` with nothing but what must be done anew; None where there is none."""
    return native_step.bind(problem, x) if problem.memory == "matrix" else None
