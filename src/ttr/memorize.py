"""Memorise: from pairs and weights to the memory. The definition, used by the oracle alone."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.problem import Problem


def predict(memory: Float[Tensor, "*b F V"], key: Float[Tensor, "*b F"]) -> Float[Tensor, "*b V"]:
    """m(k) = S^T k."""
    return torch.einsum("...fv,...f->...v", memory, key)


def moments(keys: Float[Tensor, "B N H F"], values: Float[Tensor, "B N H V"], weights: Float[Tensor, "B N H #F"]) -> Float[Tensor, "B H F V"]:
    """sum_i gamma_i k_i v_i^T over all pairs; gamma per pair, or per pair and key channel."""
    return torch.einsum("bnhf,bnhv->bhfv", weights * keys, values)


def ridge_fit(gram: Float[Tensor, "B H F F"], moment: Float[Tensor, "B H F V"], ridge: Float[Tensor, "H F"]) -> Float[Tensor, "B H F V"]:
    """The minimiser of 1/2 sum gamma ||v - S^T k||^2 + 1/2 tr(S^T diag(ridge) S): solve (H + diag(ridge)) S = U."""
    return torch.linalg.solve(gram + torch.diag_embed(ridge), moment)


def local_fit(features: Float[Tensor, "B H N P"], values: Float[Tensor, "B H N V"], log_weight: Float[Tensor, "B H N"],
              ridge: Float[Tensor, "H R"]) -> Float[Tensor, "B H P V"]:
    """The polynomial around one query: ``features`` are 1 and the displacement's monomials, P = 1 + R of them.

    The weights are brought to sum 1, so the ridge is relative; the constant is not regularised. No pairs, no memory: 0.
    """
    largest = log_weight.amax(-1, keepdim=True) if log_weight.shape[-1] else log_weight.new_zeros((*log_weight.shape[:-1], 1))
    weights = torch.exp(log_weight - torch.where(largest == -torch.inf, 0.0, largest).detach())
    total = weights.sum(-1, keepdim=True)
    empty = total == 0
    weights = weights / torch.where(empty, 1.0, total)
    left = torch.einsum("bhn,bhnp,bhnr->bhpr", weights, features, features)
    right = torch.einsum("bhn,bhnp,bhnv->bhpv", weights, features, values)
    penalty = torch.cat([empty.to(ridge), ridge.expand(*empty.shape[:-1], ridge.shape[-1])], dim=-1)
    return torch.linalg.solve(left + torch.diag_embed(penalty), right)


def fold(problem: Problem, memory: Float[Tensor, "B H F V"], key: Float[Tensor, "B H F"], read_key: Float[Tensor, "B H F"],
         value: Float[Tensor, "B H V"], step: Float[Tensor, "B H"], decay: Float[Tensor, "B H #F"] | None) -> Float[Tensor, "B H F V"]:
    """Learn one pair: shrink the memory, then descend the solver's stated objective from it.

    An explicit solver takes one gradient step, at the decayed or the old memory; a proximal one (effective step other
    than the step) goes to the minimiser of its quadratic objective by one Newton step.
    """
    kept = memory if decay is None else decay[..., None] * memory
    solver = problem.solver
    if solver.proximal:
        return _minimiser(lambda s: solver.objective(predict, s, kept, key, read_key, value, step), kept)
    anchor = memory if solver.gradient_at == "old" else kept
    gradient = torch.func.grad(lambda s: solver.objective(predict, s, anchor, key, read_key, value))(anchor)
    return kept - step[..., None, None] * gradient


def _minimiser(objective, start: Float[Tensor, "B H F V"]) -> Float[Tensor, "B H F V"]:
    """The minimiser of a quadratic objective that treats rows of B and H apart and columns of V alike.

    The gradient is affine, g(S) = A S - c, so its differences along the unit directions of F give the columns of A.
    """
    gradient = torch.func.grad(objective)
    constant = gradient(start)
    size = start.shape[-2]
    columns = []
    for f in range(size):
        direction = torch.zeros_like(start)
        direction[..., f, :] = 1.0
        columns.append((gradient(start + direction) - constant)[..., :, :1])
    return start - torch.linalg.solve(torch.cat(columns, dim=-1), constant)
