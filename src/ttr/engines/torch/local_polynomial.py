"""The local polynomial fit around every query, in query blocks, in the centred form."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ttr.engines.engine import Engine, shape_of
from ttr.engines.torch.attention import grouped_product
from ttr.engines.torch.centred_fit import monomials, tilted
from ttr.engines.torch.direct_solve import with_digits
from ttr.engines.torch.local_linear import Lines, fit
from ttr.forms.weighted_pairs import PairWeights, probabilities
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State

MONOMIALS = 2**20
"""Monomials that are written out at a time."""


class LocalPolynomial(Engine):
    """Lines by ``line_fit``, which says how; memory grows linearly with T. Higher degrees write the monomials
    of the displacements of a block of queries out."""

    name: ClassVar[str] = "local-polynomial"
    composite: ClassVar[bool] = False
    adaptive: ClassVar[bool] = True  # the queries of a block share a preconditioner

    def __init__(self, block: int = 128) -> None:
        self.block = block

    def small(self) -> LocalPolynomial:
        return LocalPolynomial(block=4)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if not problem.function.local_degree:
            return (
                "It fits lines or polynomials around every query, and this function is "
                f"{shape_of(problem.function.local_degree)}."
            )
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        return with_digits(self._run, problem, x)

    def _run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        pairs = PairWeights.of(problem.weights.window, x)
        y = (
            self._lines(problem, x, pairs)
            if problem.function.local_degree == 1
            else self._polynomials(problem, x, pairs)
        )
        return y.transpose(1, 2), pairs.final_state(x)

    def _lines(self, problem: Problem, x: Inputs, pairs: PairWeights) -> Tensor:
        """[B,H,T,V]."""
        params, controls = x.axis_params("function"), x.controls
        keys, values = (
            torch.cat([x.state[name], new], dim=1) if x.state[name].shape[1] else new
            for name, new in (("keys", x.k), ("values", x.v))
        )
        # a parameter has an entry per head, so heads no longer share their keys
        if params or keys.shape[2] != values.shape[2]:
            keys, values = x.grouped(keys), x.grouped(values)
        query, batch, groups = x.grouped(x.q), x.q.shape[0], keys.shape[2]

        def of_query(tensor: Tensor) -> Tensor:
            return tensor.transpose(1, 2).unflatten(1, (groups, -1)).flatten(0, 1).contiguous()

        def of_pairs(tensor: Tensor) -> Tensor:
            return tensor.transpose(1, 2).flatten(0, 1).contiguous()

        function = problem.function
        slope = of_query(controls["slope"]) if problem.solver.amortized else None
        ridge = (
            None
            if slope is not None
            else controls["ridge"].expand(batch, -1, -1).unflatten(1, (groups, -1)).flatten(0, 1)
        )
        lines = Lines(
            of_query(function.query(query, params)),
            of_pairs(function.key(keys, params)),
            of_query(function.point(query, params)),
            of_pairs(function.point(keys, params)),
            of_pairs(values),
            ridge,
            slope,
        )
        return fit(pairs, lines, self.block).unflatten(0, (batch, groups)).flatten(1, 2)

    def _polynomials(self, problem: Problem, x: Inputs, pairs: PairWeights) -> Tensor:
        """[B,H,T,V], with the monomials written out: fewer tokens per block where there are more, for a
        bounded memory."""
        params, ridge, degree = x.axis_params("function"), x.controls["ridge"], problem.function.local_degree
        raw_query = x.grouped(x.q)
        raw_keys, values = (
            torch.cat([x.state[name], new], dim=1) for name, new in (("keys", x.k), ("values", x.v))
        )
        # A parameter has an entry per head, so with one the heads of a group no longer share their keys.
        raw_keys = x.grouped(raw_keys) if params else raw_keys
        query, keys = (
            problem.function.query(raw_query, params).transpose(1, 2),
            problem.function.key(raw_keys, params).transpose(1, 2),
        )
        raw_query, raw_keys, values = (tensor.transpose(1, 2) for tensor in (raw_query, raw_keys, values))
        numbers = x.q.shape[0] * x.heads * keys.shape[2] * problem.function.feature_size(x.q.shape[-1])
        size = max(min(self.block, MONOMIALS // max(numbers, 1)), 1)
        outputs = [query.new_zeros(*query.shape[:2], 0, values.shape[-1])]
        for start in range(0, x.length, size):
            part, raw_part = (t[:, :, start : start + size] for t in (query, raw_query))
            arguments = (pairs, start, part, raw_part, keys, raw_keys, values, degree, ridge)
            recompute = x.wants_grad and x.length > size
            y = (
                checkpoint(_block, *arguments, use_reentrant=False, preserve_rng_state=False)
                if recompute
                else _block(*arguments)
            )
            outputs.append(y)
        return torch.cat(outputs, dim=2)


def _block(
    pairs: PairWeights,
    start: int,
    query: Tensor,
    raw_query: Tensor,
    keys: Tensor,
    raw_keys: Tensor,
    values: Tensor,
    degree: int,
    ridge: Tensor,
) -> Tensor:
    """The read-outs [B,H,C,V] of C tokens from ``start``."""
    stop, sharing = start + query.shape[2], query.shape[1] // raw_keys.shape[1]
    # Only differences of keys and queries matter. Seen from a key of the block, those of keys far from 0
    # cancel nothing.
    origin = raw_keys[:, :, pairs.past.shape[-1] + start, None].detach()
    raw_query = raw_query - origin.repeat_interleave(sharing, dim=1)
    keys, raw_keys, values = (pairs.seen(x, start, stop) for x in (keys, raw_keys, values))
    p = probabilities(
        grouped_product(query, keys.mT) + pairs.block(start, stop), pairs.importance is not None
    )
    offset = (raw_keys - origin).repeat_interleave(sharing, dim=1)[:, :, None] - raw_query[..., None, :]
    return grouped_product(tilted(p, monomials(offset, degree), ridge[:, None]), values)
