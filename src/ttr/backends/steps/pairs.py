"""One token of a memory that keeps the pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from ttr.backends.steps.moments import ridge_read, solve_spd
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State, append_pairs


def advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
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
        return ridge_read(weighted @ keys, weighted @ values, x.controls["ridge"], query)
    scores = weights * (keys @ query[..., None])[..., 0]
    y = (scores[..., None, :] @ values)[..., 0, :]
    return problem.function.ratio(y, scores.sum(-1, keepdim=True)) if problem.function.normalized else y


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
