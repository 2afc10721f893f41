"""One token of a memory that is a matrix S and the running gradient Z that updates it."""

from __future__ import annotations

from torch import Tensor

from ttr.engines.torch.steps.matrix import decay
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


def advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    form = problem.lower(x)
    linear = form.recurrence
    decayed = decay(linear.memory, None if linear.log_decay is None else linear.log_decay[:, 0])
    source = linear.memory if linear.old else decayed
    error = (linear.read[:, 0, :, None] @ source)[..., 0, :] - linear.value[:, 0]
    descent = linear.step[:, 0, :, None] * error
    share, rate = (tensor[:, 0, :, None, None] for tensor in (form.share, form.rate))
    momentum = share * form.momentum + linear.key[:, 0, :, :, None] * descent[:, :, None]
    memory = decayed - rate * momentum
    y = (linear.scaled_query[:, 0, :, None] @ memory).transpose(1, 2)
    return form.finish(x, y, memory, momentum)
