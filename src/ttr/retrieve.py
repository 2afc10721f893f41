"""Retrieve: apply the memory to a query. The definition, used by the oracle alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.memorize import predict
from ttr.problem import Function, Pair, Problem


def read(problem: Problem, params: Mapping[str, Tensor], before: Mapping[str, Tensor], after: Mapping[str, Tensor],
         query: Float[Tensor, "B H F"], pair: Pair) -> Float[Tensor, "B H V"]:
    """The read-out of a memory that is folded pair by pair: the prediction at the query, unless its recurrence says otherwise."""
    if problem.recurrence is not None:
        return problem.recurrence.read(problem.function, params, before, after, query, pair)
    of_function = {name.partition(".")[2]: x for name, x in params.items() if name.startswith("function.")}
    return problem.function.predict(after, query, of_function)


def displacement_features(function: Function, keys: Float[Tensor, "B H N K"], query: Float[Tensor, "B H K"]) -> Float[Tensor, "B H N P"]:
    """1 and the monomials of k_i - q up to the function's degree, with the query at the origin."""
    offset = keys - query[..., None, :]
    features = [torch.ones_like(offset[..., :1])]
    if function.local_degree >= 1:
        features.append(offset)
    return torch.cat(features, dim=-1)


def read_local(fit: Float[Tensor, "B H P V"]) -> Float[Tensor, "B H V"]:
    """The polynomial's value at the query, where all monomials but the constant vanish."""
    return fit[..., 0, :]


def read_linear(memory: Float[Tensor, "B H F V"], query: Float[Tensor, "B H F"]) -> Float[Tensor, "B H V"]:
    """y = m(q)."""
    return predict(memory, query)


def read_ratio(memory: Float[Tensor, "B H F V"], ones: Float[Tensor, "B H F"], query: Float[Tensor, "B H F"],
               function: Function) -> Float[Tensor, "B H V"]:
    """y = m(q) over m_1(q), as the function divides, where m_1 is the same memory of the value 1."""
    return function.ratio(predict(memory, query), predict(ones[..., None], query))
