"""One token of a network that takes a step at every token, along gradients at the weights of the last chunk
boundary.

The state holds the weights W_b of the boundary (or their accumulator) and the change since, so that the
current weights are their sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ttr.engines.torch.networks import descent, inner_pairs, mapped, predict, spread
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


def advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    form, solver = problem.lower(x), problem.solver
    names, base, tensors = form.matrices, form.weights(x.state), {}
    pairs = form
    if solver.window > 1:
        recent = {"recent_keys": form.key, "recent_values": form.value, "recent_steps": form.step}
        recent = {
            name: torch.cat([x.state[name].transpose(1, 2), new], dim=1) for name, new in recent.items()
        }
        tensors = {name: new[:, 1:].transpose(1, 2) for name, new in recent.items()}
        pairs = form._replace(**dict(zip(("key", "value", "step"), recent.values())))
    inner = inner_pairs(problem.function, solver.loss, pairs, mapped(solver.mirror, base, names), x.controls)
    moves = descent(inner, dict.fromkeys(names, pairs.step), base)

    if solver.momentum:
        moves = {
            name: move + spread(x.controls["momentum"][:, 0], move) * x.state[f"momentum.{name}"]
            for name, move in moves.items()
        }
        tensors |= {f"momentum.{name}": move for name, move in moves.items()}
    moves = mapped(solver.orthogonalise, moves, names)
    now = {}
    for name, start in base.items():
        change = x.state[f"change.{name}"] if solver.chunk > 1 else torch.zeros_like(start)
        if x.log_decay is not None:
            log_decay = spread(x.log_decay[:, 0], start)
            change = log_decay.exp() * change + torch.expm1(log_decay) * start
        change = change + moves[name]
        scale = spread(x.controls["read_step"][:, 0], start) if solver.read_step else 1.0
        now[name] = start + scale * change
        full = spread((x.state.position + 1) % solver.chunk == 0, start)
        tensors[name] = torch.where(full, now[name], start)
        if solver.chunk > 1:
            tensors[f"change.{name}"] = change.masked_fill(full, 0.0)
    y = predict(problem.function, mapped(solver.mirror, now, names), form.query, form.params)
    return y, x.state.replace(**tensors, position=x.state.position + 1)
