"""The update of one token: what decoding does and what the recurrent engine repeats. One file per kind of
state."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ttr.engines.specialised_step import BoundStep, bind
from ttr.engines.torch.steps import chunked_network, levels, matrix, moments, momentum, network, pairs
from ttr.engines.torch.steps import oja as reverse
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State

__all__ = ["BoundStep", "advance", "bind"]

STEPS: dict[str, Callable[[Problem, Inputs], tuple[Tensor, State]]] = {
    "matrix": matrix.advance,
    "moments": moments.advance,
    "pairs": pairs.advance,
    "momentum": momentum.advance,
    "reverse": reverse.advance,
    "levels": levels.advance,
    "network": network.advance,
    "chunked-network": chunked_network.advance,
}
"""``Problem.memory`` -> the function that gives the read-out [B,1,H,V] and the state after the one token of
the inputs."""


def advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    """Read-out [B,1,H,V] and state after the one token of ``x``."""
    return STEPS[problem.memory](problem, x)
