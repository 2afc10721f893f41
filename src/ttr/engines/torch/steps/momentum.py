"""One token of a memory that is a matrix S and the running gradient Z by which it moves."""

from __future__ import annotations

from torch import Tensor

from ttr.engines.torch.steps.matrix import decay
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


def advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    form = problem.lower(x)
    memory = form.memory
    kept = decay(memory, None if form.log_decay is None else form.log_decay[:, 0])
    source = memory if form.old else kept
    descent = form.step[:, 0, :, None] * ((form.read[:, 0, :, None] @ source)[..., 0, :] - form.value[:, 0])
    share, step = (x.controls[name][:, 0, :, None, None] for name in ("momentum", "momentum_step"))
    momentum = share * x.state["momentum"] + form.key[:, 0, :, :, None] * descent[:, :, None]
    memory = kept - step * momentum
    y = (form.scaled_query[:, 0, :, None] @ memory).transpose(1, 2)
    return form.finish(x, y, memory, momentum=momentum)
