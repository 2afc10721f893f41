"""The update of one token, for each kind of memory: what decoding does and what the recurrent backend repeats."""

from __future__ import annotations

import torch
from torch import Tensor

from ttr.backends.lowering import finish, linear_form, widen_state
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State, append_pairs


def advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    """Read-out [B,1,H,V] and state after the one token of ``x``."""
    return {"matrix": _matrix, "moments": _moments, "pairs": _pairs}[problem.memory](problem, x)


def _decay(memory: Tensor, log_decay: Tensor | None) -> Tensor:
    """Shrink [B,H,F,V] by exp of [B,H] or [B,H,F]."""
    if log_decay is None:
        return memory
    decay = log_decay.exp()
    return memory * (decay[..., None] if decay.ndim == 3 else decay[..., None, None])


def _matrix(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    form, memory = linear_form(problem, x), widen_state(problem, x)
    for j in range(form.pairs):
        kept = _decay(memory, form.log_decay[:, j]) if form.log_decay is not None else memory
        written = form.value[:, j]
        if form.read is not None:
            source = kept if form.gradient_at == "decayed" else memory
            written = written - (form.read[:, j, :, None] @ source)[..., 0, :]
        if form.step is not None:
            written = written * form.step[:, j, :, None]
        memory = kept + form.key[:, j, :, :, None] * written[:, :, None]
    y = (form.query[:, 0, :, None] @ memory).transpose(1, 2)
    return finish(problem, x, y, memory)


def _moments(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    form = linear_form(problem, x)
    log_decay = None if form.log_decay is None else form.log_decay[:, 0]
    key, value = form.key[:, 0], form.value[:, 0]
    weighted = key if form.step is None else key * form.step[:, 0, :, None]
    gram = _decay(x.state["gram"], log_decay) + weighted[..., None] * key[:, :, None]
    moment = _decay(x.state["memory"], log_decay) + weighted[..., None] * value[:, :, None]
    return _ridge_read(gram, moment, x.controls["ridge"], form.query[:, 0])[:, None], \
        x.state.replace(memory=moment, gram=gram, position=x.state.position + 1)


def solve_spd(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve symmetric positive definite systems [..., D, D] x = [..., D] in float64 where the device has it.

    Raises:
        ValueError: if a system is singular.
    """
    wide = matrix.dtype if matrix.device.type == "mps" else torch.float64
    try:
        solution = torch.linalg.solve(matrix.to(wide), right.to(wide)[..., None])[..., 0]
    except torch.linalg.LinAlgError as error:
        raise ValueError("The regression is singular: its pairs do not fix it. Use a larger ridge, or a smaller log_importance.") from error
    return solution.to(right.dtype)


def _ridge_read(gram: Tensor, moment: Tensor, ridge: Tensor, query: Tensor) -> Tensor:
    """y = U^T (H + diag(ridge))^-1 q: [B,H,F,F], [B,H,F,V], [H,F], [B,H,F] -> [B,H,V]."""
    solution = solve_spd(gram + torch.diag_embed(ridge), query)
    return (solution[..., None, :] @ moment)[..., 0, :]


def _pairs(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    new_weight = torch.zeros_like(x.q[:, :, :1, 0]).expand(-1, -1, x.heads) if x.log_importance is None else x.log_importance
    state = append_pairs(x.state, problem.weights.window, x.k, x.v, new_weight, None if x.log_decay is None else x.log_decay[:, 0])
    params = x.axis_params("function")
    raw_query = x.grouped(x.q)[:, 0]
    raw_keys, values = (x.grouped(state[name]).transpose(1, 2) for name in ("keys", "values"))
    query = problem.function.query(raw_query, params)
    keys = problem.function.key(raw_keys.transpose(1, 2), params).transpose(1, 2)
    log_weight = state["log_weight"].transpose(1, 2)
    if problem.function.local_degree is None:
        y = _read_weighted(problem, x, query, keys, values, log_weight.exp())
    else:
        logits = log_weight + (keys @ query[..., None])[..., 0]
        y = _read_locally(problem, x, raw_query, raw_keys, values, logits)
    return y[:, None], state


def _read_weighted(problem: Problem, x: Inputs, query: Tensor, keys: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """The global fit to the pairs of a window, read at the query: [B,H,F], [B,H,N,F], [B,H,N,V], [B,H,N] -> [B,H,V]."""
    if problem.solver.exact:
        weighted = (weights[..., None] * keys).mT
        return _ridge_read(weighted @ keys, weighted @ values, x.controls["ridge"], query)
    scores = weights * (keys @ query[..., None])[..., 0]
    y = (scores[..., None, :] @ values)[..., 0, :]
    return y / (scores.sum(-1, keepdim=True) + problem.function.eps) if problem.function.normalized else y


def _read_locally(problem: Problem, x: Inputs, query: Tensor, keys: Tensor, values: Tensor, logits: Tensor) -> Tensor:
    """The local fit read at the query, in the centred form: y = sum p_i (1 - (k_i - kbar).rho) v_i (design note 5a)."""
    top = logits.amax(-1, keepdim=True)
    p = torch.exp(logits - torch.where(top == -torch.inf, 0.0, top).detach())
    total = p.sum(-1, keepdim=True)
    p = p / torch.where(total == 0, 1.0, total)
    mean_value = (p[..., None, :] @ values)[..., 0, :]
    if problem.function.local_degree == 0:
        return mean_value
    mean_key = (p[..., None, :] @ keys)[..., 0, :]
    centred = keys - mean_key[..., None, :]
    covariance = (p[..., None] * centred).mT @ centred + torch.diag_embed(x.controls["ridge"])
    rho = solve_spd(covariance, mean_key - query)
    tilt = p * (centred @ rho[..., None])[..., 0]
    return mean_value - (tilt[..., None, :] @ (values - mean_value[..., None, :]))[..., 0, :]
