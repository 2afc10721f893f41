"""Retrieve: apply the memory to a query. The definition, used by the oracle alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.component import axis_params
from ttr.memorize import normalised, predict
from ttr.problem import Function, Pair, Problem


def read(
    problem: Problem,
    params: Mapping[str, Tensor],
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    query: Float[Tensor, "B H F"],
    pair: Pair,
) -> Float[Tensor, "B H V"]:
    """The read-out of a memory that is folded pair by pair: the prediction at the query, unless the problem
    has a recurrence with a read-out of its own."""
    if problem.recurrence is not None:
        return problem.recurrence.read(problem.function, params, before, after, query, pair)
    return problem.function.predict(after, query, axis_params(params, "function"))


def displacement_features(
    function: Function, keys: Float[Tensor, "B H N K"], query: Float[Tensor, "B H K"]
) -> Float[Tensor, "B H N P"]:
    """1 and the monomials of z_i = k_i - q up to the function's degree, in lexicographic order, with the
    query at the origin.

    A monomial is multiplied by the root of its multinomial coefficient, so that those of degree d have the
    dot product (z.z')^d, and an equal ridge for all of them is invariant to rotations.
    """
    offset = (keys - query[..., None, :]).unbind(-1)
    features = [keys.new_ones(keys.shape[:-1])]
    for degree in range(1, function.local_degree + 1):
        for channels in itertools.combinations_with_replacement(range(len(offset)), degree):
            repeats = math.prod(math.factorial(channels.count(c)) for c in set(channels))
            features.append(
                math.sqrt(math.factorial(degree) / repeats) * math.prod(offset[c] for c in channels)
            )
    return torch.stack(features, dim=-1)


def read_local(fit: Float[Tensor, "B H P V"]) -> Float[Tensor, "B H V"]:
    """The polynomial's value at the query, where all monomials but the constant vanish."""
    return fit[..., 0, :]


def read_along(
    values: Float[Tensor, "B H N V"],
    keys: Float[Tensor, "B H N K"],
    log_weight: Float[Tensor, "B H N"],
    slope: Float[Tensor, "B H K"],
) -> Float[Tensor, "B H V"]:
    """y = vbar - Cov_p(v, k) r for weights p, normalised to sum 1, and a given r; 0 without pairs."""
    p = normalised(log_weight)
    mean_key, mean_value = torch.einsum("bhn,bhnk->bhk", p, keys), torch.einsum("bhn,bhnv->bhv", p, values)
    covariance = torch.einsum(
        "bhn,bhnv,bhnk->bhvk", p, values - mean_value[..., None, :], keys - mean_key[..., None, :]
    )
    return mean_value - torch.einsum("bhvk,bhk->bhv", covariance, slope)


def read_dual(
    function: Function,
    values: Float[Tensor, "B H N V"],
    keys: Float[Tensor, "B H N K"],
    log_weight: Float[Tensor, "B H N"],
    ridge: Float[Tensor, "H 1"],
    query: Float[Tensor, "B H K"],
) -> Float[Tensor, "B H V"]:
    """y = kappa(q, K) c, where m = sum_i kappa(., k_i) c_i minimises 1/2 sum gamma_i ||v_i - m(k_i)||^2 +
    ridge/2 ||m||^2: the minimiser solves (kappa(K, K) + ridge Gamma^-1) c = V, here multiplied by Gamma,
    which may contain zeros."""
    gamma = torch.exp(log_weight)[..., None]
    gram = gamma * function.kernel_matrix(keys, keys) + ridge[..., None] * torch.eye(
        keys.shape[-2], dtype=keys.dtype, device=keys.device
    )
    coefficients = torch.linalg.solve(gram, gamma * values)
    return (function.kernel_matrix(query[..., None, :], keys) @ coefficients)[..., 0, :]


def read_linear(memory: Float[Tensor, "B H F V"], query: Float[Tensor, "B H F"]) -> Float[Tensor, "B H V"]:
    """y = m(q)."""
    return predict(memory, query)


def read_ratio(
    memory: Float[Tensor, "B H F V"],
    ones: Float[Tensor, "B H F"],
    query: Float[Tensor, "B H F"],
    function: Function,
) -> Float[Tensor, "B H V"]:
    """y = m(q) divided by m_1(q), by the function's ``ratio``, where m_1 is the same memory of the value
    1."""
    return function.ratio(predict(memory, query), predict(ones[..., None], query))
