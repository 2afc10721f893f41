"""One token of a memory that is a matrix N which maps values to keys."""

from __future__ import annotations

from torch import Tensor

from ttr.decay import RESET
from ttr.engines.torch.steps.matrix import decay
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


def advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    form = problem.lower(x)
    linear = form.recurrence
    decayed = decay(linear.memory, None if linear.log_decay is None else linear.log_decay[:, 0])
    # N^T, a delta rule with keys and values exchanged
    transposed = decay(decayed.mT, form.value_log_decay[:, 0].clamp(min=RESET))
    value = linear.value[:, 0]
    missing = linear.key[:, 0] - (value[..., None, :] @ transposed)[..., 0, :]
    transposed = transposed + value[..., None] * (linear.step[:, 0, :, None] * missing)[:, :, None]
    y = (transposed @ linear.scaled_query[:, 0, :, :, None])[..., 0][:, None]
    return form.finish(x, y, transposed.mT)
