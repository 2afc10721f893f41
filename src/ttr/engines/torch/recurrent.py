"""Every causal problem, token by token; with gradients, in the memory of one state per sqrt(T) tokens."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ttr.engines.engine import Engine
from ttr.engines.torch import steps
from ttr.inputs import Inputs, needs_composite
from ttr.problem import Problem
from ttr.state import State


class Recurrent(Engine):
    name: ClassVar[str] = "recurrent"

    def __init__(self, short: int = 64) -> None:
        self.short = short
        """Up to this length all states are saved: recomputing them would cost more."""

    def small(self) -> Recurrent:
        return Recurrent(short=4)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if not problem.function.causal:
            return "It goes token by token, and here every token reads the ones after it."
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        if not x.wants_grad or x.length <= self.short or needs_composite():
            return self._tokens(problem, x)
        size = math.isqrt(x.length - 1) + 1
        outputs, state = [], x.state
        for start in range(0, x.length, size):
            part = x.tokens(start, min(start + size, x.length), state)
            y, state = checkpoint(self._tokens, problem, part, use_reentrant=False, preserve_rng_state=False)
            outputs.append(y)
        return torch.cat(outputs, dim=1), state

    def _tokens(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        outputs, state = [x.q.new_zeros(x.q.shape[0], 0, x.heads, x.v.shape[-1])], x.state
        for t in range(x.length):
            y, state = steps.advance(problem, x.tokens(t, t + 1, state))
            outputs.append(y)
        return torch.cat(outputs, dim=1), state
