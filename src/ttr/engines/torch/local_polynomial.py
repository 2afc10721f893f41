"""The local polynomial fit around every query, in query blocks, in the centred form."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ttr.engines.engine import Engine, shape_of
from ttr.engines.torch import local_quadratic
from ttr.engines.torch.direct_solve import with_digits
from ttr.engines.torch.local_linear import LocalFits, fit
from ttr.engines.torch.monomial_fit import read_block
from ttr.forms import WeightedPairs
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State

MONOMIALS = 2**20
"""Monomials that are materialised at a time."""

DUAL_BLOCK = 16
"""Tokens that are fitted together in the dual form: their systems have the size of the largest."""


class LocalPolynomial(Engine):
    """Local linear fits by ``local_linear``, with memory linear in T; local quadratic ones by
    ``local_quadratic`` while a token sees no more pairs than there are monomials. Otherwise the monomials of
    the displacements of a block of queries are written out."""

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
                "It fits polynomials of degree 1 or more around every query, and this function is "
                f"{shape_of(problem.function.local_degree)}."
            )
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        return with_digits(self._run, problem, x)

    def _run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        form, degree = problem.lower(x), problem.function.local_degree
        y = self._linear(form) if degree == 1 else self._polynomials(form, degree, x.wants_grad)
        return form.finish(x, y.transpose(1, 2))

    def _linear(self, form: WeightedPairs) -> Tensor:
        """[B,H,T,V]."""
        batch, groups = form.query.shape[0], form.key.shape[2]

        def of_query(tensor: Tensor) -> Tensor:
            return tensor.transpose(1, 2).unflatten(1, (groups, -1)).flatten(0, 1).contiguous()

        def of_pairs(tensor: Tensor) -> Tensor:
            return tensor.transpose(1, 2).flatten(0, 1).contiguous()

        slope = None if form.slope is None else of_query(form.slope)
        ridge = (
            None
            if slope is not None
            else form.ridge.expand(batch, -1, -1).unflatten(1, (groups, -1)).flatten(0, 1)
        )
        fits = LocalFits(
            of_query(form.scaled_query),
            of_pairs(form.key),
            of_query(form.query_point),
            of_pairs(form.key_point),
            of_pairs(form.value),
            ridge,
            slope,
        )
        return fit(form.weights, fits, self.block).unflatten(0, (batch, groups)).flatten(1, 2)

    def _polynomials(self, form: WeightedPairs, degree: int, wants_grad: bool) -> Tensor:
        """[B,H,T,V], with materialised monomials where there are fewer of them than pairs: the more there
        are, the fewer tokens per block, to bound the memory."""
        query, keys, points, values, places = (
            tensor.transpose(1, 2)
            for tensor in (form.scaled_query, form.key, form.key_point, form.value, form.query_point)
        )
        pairs, ridge = form.weights, form.ridge
        batch, heads, length, _ = query.shape
        first = local_quadratic.tokens(pairs, ridge, length) if degree == 2 else 0
        outputs = [query.new_zeros(*query.shape[:2], 0, values.shape[-1])]
        if first:
            seen = slice(0, pairs.slots + first)
            own = (t[:, :, :first] for t in (query, places))
            outputs.append(
                local_quadratic.fit(
                    pairs,
                    min(self.block, DUAL_BLOCK),
                    *own,
                    *(t[:, :, seen] for t in (keys, points, values)),
                    ridge,
                )
            )
        numbers = batch * heads * keys.shape[2] * ridge.shape[-1]
        size = max(min(self.block, MONOMIALS // max(numbers, 1)), 1)
        for start in range(first, length, size):
            part, place = (t[:, :, start : start + size] for t in (query, places))
            arguments = (pairs, start, part, place, keys, points, values, degree, ridge)
            recompute = wants_grad and length > size
            y = (
                checkpoint(read_block, *arguments, use_reentrant=False, preserve_rng_state=False)
                if recompute
                else read_block(*arguments)
            )
            outputs.append(y)
        return torch.cat(outputs, dim=2)
