"""Memorise: from pairs and weights to the memory. The definition, used by the oracle alone."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.component import axis_params
from ttr.problem import Function, Pair, Problem


def predict(memory: Float[Tensor, "*b F V"], key: Float[Tensor, "*b F"]) -> Float[Tensor, "*b V"]:
    """m(k) = S^T k."""
    return torch.einsum("...fv,...f->...v", memory, key)


def moments(
    keys: Float[Tensor, "B N H F"], values: Float[Tensor, "B N H V"], weights: Float[Tensor, "B N H #F"]
) -> Float[Tensor, "B H F V"]:
    """sum_i gamma_i k_i v_i^T over all pairs; gamma per pair, or per pair and key channel."""
    return torch.einsum("bnhf,bnhv->bhfv", weights * keys, values)


def transport(
    keys: Float[Tensor, "B N H K"], transport_key: Float[Tensor, "B H K"], step: Float[Tensor, "B H"]
) -> Float[Tensor, "B N H K"]:
    """H k_i for all keys, with the matrix H = I - step w w^T of the token whose transport key is w."""
    matrix = (
        torch.eye(transport_key.shape[-1], dtype=transport_key.dtype, device=transport_key.device)
        - step[..., None, None] * transport_key[..., :, None] * transport_key[..., None, :]
    )
    return torch.einsum("bhkl,bnhl->bnhk", matrix, keys)


def ridge_fit(
    gram: Float[Tensor, "B H F F"], moment: Float[Tensor, "B H F V"], ridge: Float[Tensor, "H F"]
) -> Float[Tensor, "B H F V"]:
    """The minimiser of 1/2 sum gamma ||v - S^T k||^2 + 1/2 tr(S^T diag(ridge) S): solve (H + diag(ridge)) S =
    U."""
    return torch.linalg.solve(gram + torch.diag_embed(ridge), moment)


def local_fit(
    features: Float[Tensor, "B H N P"],
    values: Float[Tensor, "B H N V"],
    log_weight: Float[Tensor, "B H N"],
    ridge: Float[Tensor, "H R"],
) -> Float[Tensor, "B H P V"]:
    """The polynomial around one query: ``features`` are 1 and the displacement's monomials, P = 1 + R of
    them.

    The weights are normalised to sum 1, so the ridge is relative; the constant is not regularised. Without
    pairs the fit is 0.
    """
    weights = normalised(log_weight)
    empty = weights.sum(-1, keepdim=True) == 0
    left = torch.einsum("bhn,bhnp,bhnr->bhpr", weights, features, features)
    right = torch.einsum("bhn,bhnp,bhnv->bhpv", weights, features, values)
    penalty = torch.cat([empty.to(ridge), ridge.expand(*empty.shape[:-1], ridge.shape[-1])], dim=-1)
    return torch.linalg.solve(left + torch.diag_embed(penalty), right)


def normalised(log_weight: Float[Tensor, "*b N"]) -> Float[Tensor, "*b N"]:
    """The weights normalised to sum 1; all 0 where there is none."""
    largest = (
        log_weight.amax(-1, keepdim=True)
        if log_weight.shape[-1]
        else log_weight.new_zeros((*log_weight.shape[:-1], 1))
    )
    weights = torch.exp(log_weight - torch.where(largest == -torch.inf, 0.0, largest).detach())
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total == 0, 1.0, total)


def fold(
    problem: Problem, params: Mapping[str, Tensor], memory: Mapping[str, Tensor], pair: Pair
) -> dict[str, Tensor]:
    """Learn one pair: by the published recurrence if the problem has one, else decay the memory and descend
    the objective.

    An explicit solver takes one gradient step, at the decayed or the old memory; a proximal one goes to the
    minimiser of its quadratic objective by one Newton step. ``memory`` are the tensors of the state,
    ``params`` all of the call's.
    """
    if problem.recurrence is not None:
        return problem.recurrence.learn(problem.function, params, memory, pair)
    solver, controls = problem.solver, pair.controls
    step = controls.get("step_size", pair.key.new_ones(pair.key.shape[:-1]))
    value = pair.value * controls["write"] if "write" in controls else pair.value
    predict = functools.partial(_predict, problem.function, params)
    read_key = controls.get("read_key", pair.key)
    erase_key = [controls[name] for name in ("erase_key",) if name in controls]
    decayed = {name: _decayed(tensor, pair.log_decay) for name, tensor in memory.items()}
    if solver.gradient_at == "new":
        data = (decayed["memory"], pair.key, read_key, value, step)
        return {"memory": _minimiser(lambda s: solver.objective(predict, s, *data), decayed["memory"])}
    anchor = dict(memory) if solver.gradient_at == "old" else decayed
    gradient = torch.func.grad(
        lambda m: solver.objective(predict, m, anchor, pair.key, read_key, value, *erase_key)
    )(anchor)
    return {
        name: decayed[name] - step.reshape(*step.shape, *(1,) * (decayed[name].ndim - 2)) * gradient[name]
        for name in memory
    }


def _predict(
    function: Function, params: Mapping[str, Tensor], memory: Mapping[str, Tensor] | Tensor, key: Tensor
) -> Tensor:
    memory = {"memory": memory} if isinstance(memory, Tensor) else memory
    return function.predict(memory, key, axis_params(params, "function"))


def _decayed(tensor: Tensor, log_decay: Tensor | None) -> Tensor:
    """A tensor [B,H,...] of the memory times exp of [B,H], or [B,H,F,V] times exp of [B,H,F]."""
    if log_decay is None:
        return tensor
    return log_decay.exp().reshape(*log_decay.shape, *(1,) * (tensor.ndim - log_decay.ndim)) * tensor


def _minimiser(objective, start: Float[Tensor, "B H F V"]) -> Float[Tensor, "B H F V"]:
    """The minimiser of a quadratic objective that is separate for rows of B and H, with one matrix A for all
    columns of V.

    The gradient is affine, g(S) = A S - c, so its differences along the unit directions of F give the columns
    of A.
    """
    if start.numel() == 0:
        return start
    gradient = torch.func.grad(objective)
    constant = gradient(start)
    size = start.shape[-2]
    columns = []
    for f in range(size):
        direction = torch.zeros_like(start)
        direction[..., f, :] = 1.0
        columns.append((gradient(start + direction) - constant)[..., :, :1])
    return start - torch.linalg.solve(torch.cat(columns, dim=-1), constant)
