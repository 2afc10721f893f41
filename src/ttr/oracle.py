"""The definition of every layer, in float64, literal and differentiable. Every fast path is checked against
it.

For each token: memorise the pairs seen so far, retrieve with the query. A solver whose weights act on the
samples solves the weighted problem of pairs 1..t afresh, by the plainest dense method; one whose weights act
on the memory folds them in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ttr import memorize, retrieve
from ttr.controls import CONTROLS
from ttr.forms import CorrectedPairs, KernelPairs, Pairs, TransportedPairs
from ttr.inputs import Inputs, within_graph
from ttr.prepare import check_streaming, prepare
from ttr.problem import Pair, Problem
from ttr.slots import append_pairs, pair_index, single
from ttr.state import State, writable


def oracle(
    problem: Problem,
    q: Float[Tensor, "B T Hq K"],
    k: Float[Tensor, "B T *pairs Hk K"],
    v: Float[Tensor, "B T *pairs Hv V"],
    *,
    params: Mapping[str, Tensor] | None = None,
    state: State | None = None,
    return_state: bool = False,
    cu_seqlens: Int[Tensor, " bounds"] | None = None,
    **controls: Tensor | float,
) -> Float[Tensor, "B T H V"] | tuple[Tensor, State]:
    """The read-outs of a problem by its definition, in float64.

    Arguments, shapes and errors are those of ``ttr.regress``; the result is float64 and differentiable, time
    is O(T^2) or worse.
    """
    x = prepare(problem, q, k, v, params, writable(state), cu_seqlens, controls, dtype=torch.float64)
    check_streaming(problem, return_state or state is not None)
    if cu_seqlens is None:
        y, state = _sequence(problem, x)
    else:
        bounds = cu_seqlens.tolist()
        starts = [single(x.state, row, problem.weights.window) for row in range(len(bounds) - 1)]
        parts = [
            _sequence(problem, x.tokens(*ends, start)) for start, *ends in zip(starts, bounds, bounds[1:])
        ]
        y = torch.cat([x.q.new_zeros(1, 0, x.heads, v.shape[-1]), *(rows for rows, _ in parts)], dim=1)
        state = State.cat([end for _, end in parts]) if parts else x.state
    state = state if x.length else state.clone()  # without tokens it is the caller's own
    y = within_graph(y, x)
    return (y, state) if return_state else y


def _sequence(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    x = dataclasses.replace(x, log_retention=x.log_decay, rates=None)
    if not problem.function.causal:
        y, state = _read_whole(problem, x)
    elif problem.recurrence is not None or problem.solver.weights_act_on == "memory":
        y, state = _fold_pairs(problem, x)
    elif issubclass(problem.form, Pairs):
        y, state = _refit_from_pairs(problem, x)
    else:
        y, state = _refit_from_moments(problem, x)
    empty = x.q.new_zeros(x.q.shape[0], 0, x.heads, x.v.shape[-1])
    return torch.cat([empty, *(row[:, None] for row in y)], dim=1), state


def _read_whole(problem: Problem, x: Inputs) -> tuple[Sequence[Tensor], State]:
    """A function that is not causal: all tokens at once."""
    if x.length == 0:
        return [], x.state
    params = x.axis_params("function")
    query, key = problem.function.query(x.grouped(x.q), params), problem.function.key(x.grouped(x.k), params)
    return problem.function.whole(query, key, x.grouped(x.v), params).unbind(1), x.state


def _log_decay(x: Inputs, t: int, pair: int = -1) -> Tensor:
    """Log decay from token ``pair``, which wrote a pair, to token t (-1: from the incoming state). [B,1,H] or
    [B,1,H,K]."""
    if x.log_decay is None:
        return x.q.new_zeros(x.q.shape[0], 1, x.heads)
    return x.log_decay[:, pair + 1 : t + 1].sum(1, keepdim=True)


def _log_weights(x: Inputs, t: int) -> Tensor:
    """Log weights at token t of pairs 0..t: the log decay since, plus their log importance. [B,t+1,H] or
    [B,t+1,H,K]."""
    log_weight = torch.cat([_log_decay(x, t, pair) for pair in range(t + 1)], dim=1)
    if x.log_importance is None:
        return log_weight
    importance = x.log_importance[:, : t + 1]
    return log_weight + (importance if log_weight.ndim == 3 else importance[..., None])


def _refit_from_moments(problem: Problem, x: Inputs) -> tuple[list[Tensor], State]:
    """Global function, no window: the weighted sums over all pairs, and with an exact solver the ridge fit
    they define."""
    params = x.axis_params("function")
    queries = problem.function.query(x.grouped(x.q), params)
    keys, values = problem.function.key(x.grouped(x.k), params), x.grouped(x.v)
    targets = {"memory": values, "gram": keys, "normalizer": values.new_ones(*values.shape[:-1], 1)}
    y, sums = [], dict(x.state.tensors)
    for t in range(x.length):
        weights, decay = (
            w if w.ndim == 4 else w[..., None] for w in (_log_weights(x, t).exp(), _log_decay(x, t).exp())
        )
        for name, start in x.state.tensors.items():
            past = decay[:, 0, :, :, None] * (start if start.ndim == 4 else start[..., None])
            new = memorize.moments(keys[:, : t + 1], targets[name][:, : t + 1], weights)
            sums[name] = (past + new).reshape(start.shape)
        memory = (
            memorize.ridge_fit(sums["gram"], sums["memory"], x.controls["ridge"])
            if problem.solver.exact
            else sums["memory"]
        )
        y.append(_read(problem, memory, sums.get("normalizer"), queries[:, t]))
    return y, x.state.replace(**sums, position=x.state.position + x.length)


def _refit_from_pairs(problem: Problem, x: Inputs) -> tuple[list[Tensor], State]:
    """Local function or window: the pairs themselves, each with its weight at the token that reads."""
    window, params = problem.weights.window, x.axis_params("function")
    old = x.state["keys"].shape[1]
    keys = torch.cat([x.state["keys"], x.k], dim=1)
    values = torch.cat([x.state["values"], x.v], dim=1)
    index = torch.cat(
        [pair_index(x.state, window), x.state.position[:, None] + torch.arange(x.length, device=x.q.device)],
        dim=1,
    )
    y, log_weight = [], x.state["log_weight"]
    for t in range(x.length):
        log_weight = torch.cat([x.state["log_weight"] + _log_decay(x, t), _log_weights(x, t)], dim=1)
        seen = slice(0, old + t + 1)
        if window is not None:
            outside = index[:, seen] <= x.state.position[:, None] + t - window
            log_weight = log_weight.masked_fill(outside[..., None], -torch.inf)
        at, before = x.tokens(t, t + 1, x.state), slice(0, old + t)
        if problem.form is TransportedPairs:
            transported = memorize.transport(
                keys[:, before], x.controls["transport_key"][:, t], x.controls["step_size"][:, t]
            )
            keys = torch.cat([transported, keys[:, old + t :]], dim=1)
        if problem.form is CorrectedPairs:
            known = _read_pairs(
                problem, at, x.grouped(keys[:, before]), values[:, before], log_weight[:, :-1], params
            )
            corrected = x.v[:, t] - x.controls["step_size"][:, t, :, None] * known
            values = torch.cat([values[:, before], corrected[:, None], values[:, old + t + 1 :]], dim=1)
        y.append(
            _read_pairs(problem, at, x.grouped(keys[:, seen]), x.grouped(values[:, seen]), log_weight, params)
        )
    total = None if x.log_decay is None else x.log_decay.sum(1)
    start = x.state.replace(keys=keys[:, :old], values=values[:, :old])
    return y, append_pairs(start, window, keys[:, old:], values[:, old:], log_weight[:, old:], total)


def _read_pairs(
    problem: Problem,
    x: Inputs,
    keys: Tensor,
    values: Tensor,
    log_weight: Tensor,
    params: Mapping[str, Tensor],
) -> Tensor:
    """Fit to weighted pairs [B,N,H,.] and read at the query of the one token of ``x``."""
    function, q = problem.function, x.grouped(x.q)[:, 0]
    if problem.form is KernelPairs:
        of_head = (tensor.transpose(1, 2) for tensor in (values, keys, log_weight))
        return retrieve.read_dual(function, *of_head, x.controls["ridge"], q)
    query, mapped = function.query(q, params), function.key(keys, params)
    if function.local_degree is not None:
        kernel = log_weight + torch.einsum("bhf,bnhf->bnh", query, mapped)
        if "slope" in x.controls:
            of_head = (tensor.transpose(1, 2) for tensor in (values, keys, kernel))
            return retrieve.read_along(*of_head, x.controls["slope"][:, 0])
        features = retrieve.displacement_features(
            function, function.point(keys, params).transpose(1, 2), function.point(q, params)
        )
        ridge = x.controls["ridge"] if function.local_degree else q.new_zeros(q.shape[1], 0)
        return retrieve.read_local(
            memorize.local_fit(features, values.transpose(1, 2), kernel.transpose(1, 2), ridge)
        )
    weights = torch.exp(log_weight)[..., None]
    memory = memorize.moments(mapped, values, weights)
    if problem.solver.exact:
        memory = memorize.ridge_fit(memorize.moments(mapped, mapped, weights), memory, x.controls["ridge"])
    ones = (
        memorize.moments(mapped, values.new_ones(*values.shape[:-1], 1), weights)[..., 0]
        if function.normalized
        else None
    )
    return _read(problem, memory, ones, query)


def _fold_pairs(problem: Problem, x: Inputs) -> tuple[list[Tensor], State]:
    """A memory updated pair by pair: the decay acts once per token; on a memory, importance multiplies the
    pair's step."""
    params, pairs = x.axis_params("function"), problem.solver.pairs_per_token
    queries = problem.function.query(x.grouped(x.q), params)
    per_pair = {name for name in x.controls if CONTROLS[name].per_pair and pairs > 1}
    controls = {
        name: problem.function.key(c, params) if CONTROLS[name].key else c for name, c in x.controls.items()
    }
    log_importance = x.log_importance
    if log_importance is not None and problem.solver.weights_act_on == "memory":
        importance, log_importance = torch.exp(log_importance), None
        step = controls.get("step_size", importance.new_ones(()))
        controls["step_size"] = step * (importance if step.ndim <= importance.ndim else importance[..., None])
        if "precond_step" in controls:
            controls["precond_step"] = controls["precond_step"] * importance
    keys, values = problem.function.key(x.grouped(x.k), params), x.grouped(x.v)
    memory, y = dict(x.state.tensors), []
    for t in range(x.length):
        before = memory
        for j in range(pairs):
            at = (slice(None), t, j) if pairs > 1 else (slice(None), t)
            of_pair = {
                name: c if name == "ridge" else c[at] if name in per_pair else c[:, t]
                for name, c in controls.items()
            }
            pair = Pair(
                keys[at],
                values[at],
                of_pair,
                None if x.log_decay is None or j else x.log_decay[:, t],
                None if log_importance is None else log_importance[at],
                x.state.position + t,
            )
            memory = memorize.fold(problem, x.params, memory, pair)
        y.append(retrieve.read(problem, x.params, before, memory, queries[:, t], pair))
    return y, x.state.replace(**memory, position=x.state.position + x.length)


def _read(problem: Problem, memory: Tensor, ones: Tensor | None, query: Tensor) -> Tensor:
    return (
        retrieve.read_linear(memory, query)
        if ones is None
        else retrieve.read_ratio(memory, ones, query, problem.function)
    )
