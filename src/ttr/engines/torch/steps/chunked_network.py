"""One token of a network that moves once per chunk: the token reads, and its gradient is added to those of
the open chunk."""

from __future__ import annotations

import torch
from torch import Tensor

from ttr.engines.torch.networks import descent, inner_pairs, matrices, predict, spread
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


def advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    function, params = problem.function, x.axis_params("function")
    query, key, value = (
        function.query(x.grouped(x.q), params),
        function.key(x.grouped(x.k), params),
        x.grouped(x.v),
    )
    state = collect(problem, x, x.state, key, value, group_steps(x), x.controls)
    full = (x.state.position + 1) % problem.solver.chunk == 0
    weights = {name: x.state[name] for name in function.memory(key.shape[-1], value.shape[-1])}
    return predict(function, weights, query, params), move(problem, x, state, full).replace(
        position=x.state.position + 1
    )


def group_steps(x: Inputs) -> Tensor:
    """The steps [B,T,H,P] of every pair and group, importance included."""
    step = x.controls["step_size"]
    return step if x.log_importance is None else step * x.log_importance.exp()[..., None]


def collect(
    problem: Problem,
    x: Inputs,
    state: State,
    key: Tensor,
    value: Tensor,
    steps: Tensor,
    controls: dict[str, Tensor],
) -> State:
    """The state with the gradients of pairs [B,C,H,.] of one chunk added; pairs of step 0 and momentum 0
    change nothing."""
    names = matrices(problem, key.shape[-1], value.shape[-1])
    weights = {name: state[name] for name in problem.function.memory(key.shape[-1], value.shape[-1])}
    inner = inner_pairs(
        problem.function,
        x.axis_params("function"),
        problem.solver.loss,
        weights,
        key,
        value,
        controls,
        names,
        steps,
    )
    added = descent(inner, dict(zip(names, steps.unbind(-1))), weights)
    tensors = {f"gradient.{name}": state[f"gradient.{name}"] + new for name, new in added.items()}
    if problem.solver.momentum:
        tensors["momentum_sum"] = state["momentum_sum"] + controls["momentum"].sum(1)
    return state.replace(**tensors)


def move(problem: Problem, x: Inputs, state: State, full: Tensor) -> State:
    """The state after the step at the end of a chunk, in the rows [B] where the chunk is ``full``."""
    solver, tensors = problem.solver, {}
    start = problem.function.initial(x.axis_params("function"))
    for name in (name.removeprefix("gradient.") for name in state if name.startswith("gradient.")):
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
