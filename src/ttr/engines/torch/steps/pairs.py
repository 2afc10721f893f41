"""One token of a memory that stores the pairs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ttr.engines.native import attention as native
from ttr.engines.torch import quadratic_dual
from ttr.engines.torch.centred_fit import monomials, tilted
from ttr.engines.torch.direct_solve import refuse_without_digits, solve_spd, wide_dtype, with_digits
from ttr.engines.torch.fused_attention import attend_once
from ttr.engines.torch.steps import pair_updates
from ttr.engines.torch.steps.moments import ridge_read
from ttr.forms import KernelPairs
from ttr.inputs import Inputs, needs_composite, repeat_heads
from ttr.problem import Problem
from ttr.slots import append_pairs
from ttr.state import State
from ttr.state_tensors import StateTensors
from ttr.torch_internals import FLASH_ATTENTION


def advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    return with_digits(_advance, problem, x)


def _advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    x = pair_updates.updated(problem, x)
    state = append_pairs(
        x.state,
        problem.weights.window,
        x.k,
        x.v,
        x.own_log_weight,
        None if x.log_decay is None else x.log_decay[:, 0],
        inplace=x.owns_state and problem.function.local_degree == 0,  # which no numbers make it refuse
    )
    params = x.axis_params("function")
    raw_query, held = x.grouped(x.q)[:, 0], state
    if state.capacity is not None and not needs_composite():
        filled = max([0, *state.position.tolist()])
        held = state.map(lambda slots: slots[:, :filled])
    if _is_attention(problem, x):
        return _attended(problem, raw_query, held, params)[:, None], state
    raw_keys, values = (x.grouped(held[name]).transpose(1, 2) for name in ("keys", "values"))
    log_weight = held["log_weight"].transpose(1, 2)
    if problem.form is KernelPairs:
        return _read_dual(problem, x, raw_query, raw_keys, values, log_weight)[:, None], state
    query = problem.function.query(raw_query, params)
    keys = problem.function.key(raw_keys.transpose(1, 2), params).transpose(1, 2)
    if problem.function.local_degree is None:
        y = _read_weighted(problem, x, query, keys, values, log_weight.exp())
    else:
        logits = log_weight + (keys @ query[..., None])[..., 0]
        points = problem.function.point(raw_keys.transpose(1, 2), params).transpose(1, 2)
        y = _read_locally(problem, x, problem.function.point(raw_query, params), points, values, logits)
    return y[:, None], state


def _is_attention(problem: Problem, x: Inputs) -> bool:
    """Whether the fused kernel reads this token: a constant fit to pairs of which its own has weight 1."""
    return (
        problem.function.local_degree == 0
        and x.log_importance is None
        and not x.wants_grad
        and x.q.is_cpu
        and x.q.numel() > 0
        and FLASH_ATTENTION is not None
        and not needs_composite()
    )


def _attended(problem: Problem, query: Tensor, held: StateTensors, params: Mapping[str, Tensor]) -> Tensor:
    """The read-out [B,H,V] of softmax attention over the pairs held."""
    keys, values, heads = held["keys"], held["values"], query.shape[1]
    scale = problem.function.plain_scale(query.shape[-1])
    if scale is None:
        query, scale = problem.function.query(query, params), 1.0
        keys = problem.function.key(keys, params)
    if keys.shape[2] != values.shape[2]:
        keys, values = (repeat_heads(pairs, heads) for pairs in (keys, values))
    weights = problem.weights
    even = weights.retention is None and weights.window is None
    full = even and all(count == keys.shape[1] for count in held.position.tolist())
    log_weight = None if full else held["log_weight"]
    if native.serves(query, keys, values):
        return native.attend(query, keys, values, log_weight, scale)
    log_weight = None if full else log_weight.mT
    return attend_once(query, keys.transpose(1, 2), values.transpose(1, 2), log_weight, scale)


def _read_dual(
    problem: Problem, x: Inputs, query: Tensor, keys: Tensor, values: Tensor, log_weight: Tensor
) -> Tensor:
    """Kernel ridge regression read at the query: y = kappa(q, K) G (G kappa(K, K) G + ridge)^-1 G V with G
    the roots of the weights."""
    query, keys, values, log_weight = (t.to(wide_dtype(t)) for t in (query, keys, values, log_weight))
    root = (0.5 * log_weight).exp()
    gram = root[..., :, None] * problem.function.kernel_matrix(keys, keys) * root[..., None, :]
    gram = gram + x.controls["ridge"].to(gram)[..., None] * torch.eye(
        keys.shape[-2], dtype=keys.dtype, device=keys.device
    )
    right = root * problem.function.kernel_matrix(keys, query[..., None, :])[..., 0]
    solution = solve_spd(gram, right)
    if not needs_composite():
        refuse_without_digits(gram.norm(dim=(-2, -1)), solution, right)
    return ((root * solution)[..., None, :] @ values)[..., 0, :].to(x.q.dtype)


def _read_weighted(
    problem: Problem, x: Inputs, query: Tensor, keys: Tensor, values: Tensor, weights: Tensor
) -> Tensor:
    """The global fit to the pairs of a window, read at the query: [B,H,F], [B,H,N,F], [B,H,N,V], [B,H,N] ->
    [B,H,V]."""
    if problem.solver.exact:
        weighted = (weights[..., None] * keys).mT
        return ridge_read(weighted @ keys, weighted @ values, x.controls["ridge"], query)
    scores = weights * (keys @ query[..., None])[..., 0]
    y = (scores[..., None, :] @ values)[..., 0, :]
    return problem.function.ratio(y, scores.sum(-1, keepdim=True)) if problem.function.normalized else y


def _read_locally(
    problem: Problem, x: Inputs, query: Tensor, keys: Tensor, values: Tensor, logits: Tensor
) -> Tensor:
    """The local fit read at the query: [B,H,K], [B,H,N,K], [B,H,N,V], [B,H,N] -> [B,H,V]."""
    # values cannot be checked here, so the wider dtype is always used
    if problem.function.local_degree and needs_composite():
        query, keys, values, logits = (t.to(wide_dtype(t)) for t in (query, keys, values, logits))
    top = logits.amax(-1, keepdim=True)
    p = torch.exp(logits - torch.where(top == -torch.inf, 0.0, top).detach())
    total = p.sum(-1, keepdim=True)
    p = p / torch.where(total == 0, 1.0, total)
    ridge, slope = (x.controls[name].to(p) if name in x.controls else None for name in ("ridge", "slope"))
    dual = problem.function.local_degree == 2 and not x.wants_grad and not needs_composite()
    if dual and p.shape[-1] <= ridge.shape[-1] and quadratic_dual.determined(ridge):
        return quadratic_dual.read_once(p, query, keys, values, ridge)
    if problem.function.local_degree:
        features = (
            keys
            if "slope" in x.controls
            else monomials(keys - query[..., None, :], problem.function.local_degree)
        )
        p = tilted(p, features, ridge, None if slope is None else slope[:, 0])
    return (p[..., None, :] @ values)[..., 0, :].to(x.q.dtype)
