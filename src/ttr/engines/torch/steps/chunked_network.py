"""One token of a network that takes one step per chunk: the token reads, and its gradient is added to those
of the open chunk."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ttr.engines.torch.networks import descent, inner_pairs, predict, spread
from ttr.forms import ChunkedNetwork
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


def advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    form = problem.lower(x)
    state = collect(problem, form, x.state, x.controls)
    full = (x.state.position + 1) % problem.solver.chunk == 0
    y = predict(problem.function, form.weights(x.state), form.query, form.params)
    return y, move(problem, form, state, full).replace(position=x.state.position + 1)


def collect(problem: Problem, chunk: ChunkedNetwork, state: State, controls: Mapping[str, Tensor]) -> State:
    """The state with the gradients of the pairs of one chunk added; pairs of step 0 and momentum 0 change
    nothing."""
    weights = chunk.weights(state)
    inner = inner_pairs(problem.function, problem.solver.loss, chunk, weights, controls)
    added = descent(inner, dict(zip(chunk.matrices, chunk.step.unbind(-1))), weights)
    tensors = {f"gradient.{name}": state[f"gradient.{name}"] + new for name, new in added.items()}
    if problem.solver.momentum:
        tensors["momentum_sum"] = state["momentum_sum"] + controls["momentum"].sum(1)
    return state.replace(**tensors)


def move(problem: Problem, form: ChunkedNetwork, state: State, full: Tensor) -> State:
    """The state after the step at the end of a chunk, in the rows [B] where the chunk is ``full``."""
    solver, tensors = problem.solver, {}
    start = problem.function.initial(form.params)
    for name in form.names:
        weight, update, here = state[name], state[f"gradient.{name}"], spread(full, state[name])
        tensors[f"gradient.{name}"] = update.masked_fill(here, 0.0)
        if solver.momentum:
            update = update + spread(state["momentum_sum"] / solver.chunk, weight) * state[f"momentum.{name}"]
            tensors[f"momentum.{name}"] = torch.where(here, update, state[f"momentum.{name}"])
        is_matrix = not name.endswith("_bias")
        moved = weight + (
            solver.orthogonalise(update) if solver.orthogonalise is not None and is_matrix else update
        )
        if solver.renormalise and is_matrix:
            moved = moved * (_lengths(start[name]) / (_lengths(moved) + solver.eps))
        tensors[name] = torch.where(here, moved, weight)
    if solver.momentum:
        tensors["momentum_sum"] = state["momentum_sum"].masked_fill(spread(full, state["momentum_sum"]), 0.0)
    return state.replace(**tensors)


def _lengths(weights: Tensor) -> Tensor:
    """The length of the weights [..., I, O] of every output, [..., 1, O]."""
    return torch.linalg.vector_norm(weights, dim=-2, keepdim=True)
