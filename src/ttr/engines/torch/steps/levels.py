"""One token of a memory that keeps one matrix per Fenwick level."""

from __future__ import annotations

import torch
from torch import Tensor

from ttr.forms.fenwick import level, regrouped
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


def advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    form, token = problem.lower(x), x.state.position
    # nothing older is on level 0
    past = regrouped(x.state["memory"], level(token, token - 1, problem.weights.levels))[:, :, 1:]
    if form.log_decay is not None:
        past = past * form.log_decay[:, 0, :, None, None, None].exp()
    own = form.key[:, 0, :, :, None] * form.value[:, 0, :, None]
    memory = torch.cat([own[:, :, None], past], dim=2)
    rows = x.controls["level_weight"][:, 0, :, :, None] * form.scaled_query[:, 0, :, None]
    y = rows.flatten(2)[:, :, None] @ memory.flatten(2, 3)
    return y.transpose(1, 2), x.state.replace(memory=memory, position=token + 1)
