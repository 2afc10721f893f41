"""One token of a memory with one matrix per Fenwick level."""

from __future__ import annotations

import torch
from torch import Tensor

from ttr.forms.fenwick import level, regrouped
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


def advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    form, token = problem.lower(x), x.state.position
    linear = form.recurrence
    # level 0 holds the token's own pair only
    past = regrouped(form.memory, level(token, token - 1, form.levels))[:, :, 1:]
    if linear.log_decay is not None:
        past = past * linear.log_decay[:, 0, :, None, None, None].exp()
    own = linear.key[:, 0, :, :, None] * linear.value[:, 0, :, None]
    memory = torch.cat([own[:, :, None], past], dim=2)
    rows = form.level_weight[:, 0, :, :, None] * linear.scaled_query[:, 0, :, None]
    y = rows.flatten(2)[:, :, None] @ memory.flatten(2, 3)
    return form.finish(x, y.transpose(1, 2), memory)
