"""The update of one token: what decoding does and what the recurrent engine repeats. One file per form
of memory."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ttr import forms
from ttr.engines.specialised_step import BoundStep, bind
from ttr.engines.torch.steps import (
    chunked_network,
    fenwick,
    matrix,
    moments,
    momentum,
    network,
    oja,
    pairs,
)
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State

__all__ = ["BoundStep", "advance", "bind"]

STEPS: dict[type[forms.Form], Callable[[Problem, Inputs], tuple[Tensor, State]]] = {
    forms.LinearRecurrence: matrix.advance,
    forms.SecondMoments: moments.advance,
    forms.WeightedPairs: pairs.advance,
    forms.TransportedPairs: pairs.advance,
    forms.CorrectedPairs: pairs.advance,
    forms.KernelPairs: pairs.advance,
    forms.MomentumRecurrence: momentum.advance,
    forms.OjaRecurrence: oja.advance,
    forms.FenwickRecurrence: fenwick.advance,
    forms.Network: network.advance,
    forms.ChunkedNetwork: chunked_network.advance,
}
"""``Problem.form`` -> the function that gives the read-out [B,1,H,V] and the state after the one token of the
inputs."""


def advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    """Read-out [B,1,H,V] and state after the one token of ``x``."""
    return STEPS[problem.form](problem, x)
