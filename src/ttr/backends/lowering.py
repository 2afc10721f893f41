"""From a call to the linear recurrence it stands for, the form that the linear backends share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.backends import rotation
from ttr.inputs import Inputs
from ttr.problem import RESET, Problem


@dataclass(frozen=True)
class LinearForm:
    """S_j = D_j S_{j-1} + key_j step_j (value_j - S_x^T read_j)^T for pairs j = 1..L, L = T n, and y_t = S_{tn}^T query_t.

    Letters: L pairs, T tokens. query [B,T,H,F], key and read [B,L,H,F], value [B,L,H,V], step [B,L,H] (1 if absent),
    log_decay [B,L,H] or [B,L,H,F], finite (a reset is ``RESET``, which leaves 2e-35 of the past). ``read`` is None for an
    additive memory. With a normalised read-out ``value`` has a last column of ones.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    read: Tensor | None
    step: Tensor | None
    log_decay: Tensor | None
    gradient_at: str | None
    pairs: int


def linear_form(problem: Problem, x: Inputs) -> LinearForm:
    """The recurrence of a problem whose memory is a matrix; ridge problems share its keys, values and decay."""
    function, pairs = problem.function, problem.solver.pairs_per_token
    params = x.axis_params("function")

    def flat(tensor: Tensor | None) -> Tensor | None:
        return tensor if tensor is None or pairs == 1 else tensor.flatten(1, 2)

    key = flat(function.key(x.grouped(x.k), params))
    value = flat(x.grouped(x.v))
    if function.normalized:
        value = torch.cat([value, torch.ones_like(value[..., :1])], dim=-1)
    read = None if problem.solver.gradient_at is None else key
    if "read_key" in x.controls:
        read = flat(function.key(x.controls["read_key"], params))
    step, log_decay = None, _per_pair(x.log_decay, pairs)
    if "step_size" in x.controls:
        step = x.controls["step_size"] if x.log_importance is None else x.controls["step_size"] * x.log_importance.exp()
        own = problem.solver.log_retention(flat(step), key)
        log_decay = log_decay if own is None else _plus(own, log_decay)
        step = problem.solver.effective_step(flat(step), key, x.axis_params("solver"))
    elif x.log_importance is not None:
        step = flat(x.log_importance).exp()
    query = function.query(x.grouped(x.q), params)
    if x.phase is not None:
        cos, sin = rotation.frame(x)
        if problem.weights.complex_values:
            value = rotation.turn(value, cos, -sin)
        else:
            query, key = (rotation.double(part, cos, sin) for part in (query, key))
            log_decay = log_decay if log_decay is None or log_decay.ndim == 3 else torch.cat([log_decay, log_decay], dim=-1)
    return LinearForm(query, key, value, read, step, log_decay, problem.solver.gradient_at, pairs)


def _plus(channels: Tensor, log_decay: Tensor | None) -> Tensor:
    """A log decay [B,L,H,F] with another one, [B,L,H] or [B,L,H,F], where there is one."""
    if log_decay is None:
        return channels
    return channels + (log_decay if log_decay.ndim == 4 else log_decay[..., None])


def _per_pair(log_decay: Tensor | None, pairs: int) -> Tensor | None:
    """The log decay of every pair: that of the token on its first pair, 0 on the others; resets made finite."""
    if log_decay is None:
        return None
    finite = log_decay.clamp(min=RESET)
    if pairs == 1:
        return finite
    others = torch.zeros_like(finite)[:, :, None].expand(-1, -1, pairs - 1, *finite.shape[2:])
    return torch.cat([finite[:, :, None], others], dim=2).flatten(1, 2)


def widen_state(problem: Problem, x: Inputs) -> Tensor:
    """The memory [B,H,F,V], with the normaliser as a last column where there is one."""
    memory = x.state["memory"]
    memory = torch.cat([memory, x.state["normalizer"][..., None]], dim=-1) if problem.function.normalized else memory
    return memory if x.phase is None else rotation.enter(problem, x, memory)


def finish(problem: Problem, x: Inputs, y: Tensor, memory: Tensor):
    """Read-outs and state from the recurrence's: divide by the last column where the read-out is normalised."""
    y, parts = (y, {"": memory}) if x.phase is None else rotation.leave(problem, x, y, memory)
    tensors = {f"{part}memory": memory for part, memory in parts.items()}
    if problem.function.normalized:
        y = problem.function.ratio(y[..., :-1], y[..., -1:])
        tensors = {f"{part}memory": memory[..., :-1] for part, memory in parts.items()}
        tensors |= {f"{part}normalizer": memory[..., -1] for part, memory in parts.items()}
    return y, x.state.replace(**tensors, position=x.state.position + x.length)
