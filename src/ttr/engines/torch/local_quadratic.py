"""Local quadratic fits around every query in their dual form, in blocks of queries, and their derivative."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.engines.torch.direct_solve import wide_dtype
from ttr.engines.torch.local_linear import BiasGradients, block_bias, with_tensors
from ttr.engines.torch.monomial_fit import read_block
from ttr.engines.torch.quadratic_dual import Fits, determined, differentiate, read
from ttr.forms.pair_weights import PairWeights, probabilities
from ttr.torch_internals import in_batches

ENTRIES = 2**20
"""Entries of systems that are factored together, to bound the memory."""


def tokens(pairs: PairWeights, ridge: Float[Tensor, "H F"], length: int) -> int:
    """How many of the first tokens are fitted in the dual form: those that see at most as many pairs as there
    are monomials, if all of a head have one ridge above 0."""
    if not determined(ridge):
        return 0
    monomials = ridge.shape[-1]
    if pairs.window is not None and pairs.window <= monomials:
        return length
    return min(max(monomials - pairs.slots, 0), length)


def fit(
    pairs: PairWeights,
    block: int,
    query: Float[Tensor, "B H T K"],
    places: Float[Tensor, "B H T D"],
    keys: Float[Tensor, "B G M K"],
    points: Float[Tensor, "B G M D"],
    values: Float[Tensor, "B G M V"],
    ridge: Float[Tensor, "H F"],
) -> Float[Tensor, "B H T V"]:
    """The fits read at their queries, computed in the wide dtype, at most ``block`` tokens at a time.
    Differentiable any number of times; its saved tensors grow linearly with T."""
    wide = [t.to(wide_dtype(query)) for t in (query, places, keys, points, values, ridge)]
    total = None if pairs.decay is None else pairs.decay.total
    return _Fit.apply(pairs, block, pairs.past, total, pairs.importance, *wide).to(query.dtype)


class _Fit(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        pairs: PairWeights,
        block: int,
        past: Tensor,
        total: Tensor | None,
        importance: Tensor | None,
        *tensors: Tensor,
    ) -> Tensor:
        ctx.pairs, ctx.block = pairs, block
        ctx.save_for_backward(past, total, importance, *tensors)
        query, values = tensors[0], tensors[4]
        y = query.new_empty(*query.shape[:3], values.shape[-1])
        of_groups = _grouped(y, values)
        for part in _parts(pairs, block, *tensors):
            part.put(of_groups, read(part.fits))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = _differentiable if torch.is_grad_enabled() or in_batches(grad) else _gradients
        found = gradients(ctx.pairs, ctx.block, ctx.saved_tensors, grad, ctx.needs_input_grad[2:])
        return None, None, *found


class _Part(NamedTuple):
    """A few tokens of some groups, with the pairs that they see."""

    at: tuple[slice, slice, slice]
    seen: tuple[slice, slice]
    query: Float[Tensor, "U R K"]
    keys: Float[Tensor, "U P K"]
    fits: Fits

    def put(self, x: Float[Tensor, "U S T d"], rows: Float[Tensor, "U R d"]) -> None:
        target = x[self.at]
        target.copy_(rows.view(target.shape))


def _grouped(x: Float[Tensor, "B H *rest"], pairs: Float[Tensor, "B G *pairs"]) -> Float[Tensor, "U S *rest"]:
    """Heads that share their keys, in groups."""
    return x.unflatten(1, (pairs.shape[1], -1)).flatten(0, 1)


def _parts(
    pairs: PairWeights,
    block: int,
    query: Tensor,
    places: Tensor,
    keys: Tensor,
    points: Tensor,
    values: Tensor,
    ridge: Tensor,
) -> Iterator[_Part]:
    batch, heads, time = query.shape[:3]
    query, places, ridge = (_grouped(x, keys) for x in (query, places, ridge[:, 0].expand(batch, -1)))
    keys, points, values = (x.flatten(0, 1) for x in (keys, points, values))
    units, sharing = query.shape[:2]
    start = 0
    while start < time:
        room = ENTRIES // max(sharing * (pairs.slots + start + 1 - pairs.first_seen(start)) ** 2, 1)
        stop = min(start + min(max(room // max(units, 1), 1), block), time)
        step, first = max(room // (stop - start), 1), pairs.first_seen(start)
        bias = block_bias(pairs, sharing, start, stop)
        for unit in range(0, units, step):
            group = slice(unit, min(unit + step, units))
            at, seen = (group, slice(None), slice(start, stop)), (group, slice(first, pairs.slots + stop))
            own = query[at].flatten(1, 2)
            logits = own @ keys[seen].mT + bias[group].flatten(1, 2)
            fits = Fits(
                probabilities(logits, pairs.importance is not None),
                places[at].flatten(1, 2),
                points[seen],
                values[seen],
                ridge[group, :, None].expand(-1, -1, stop - start).flatten(1, 2),
            )
            yield _Part(at, seen, own, keys[seen], fits)
        start = stop


def _gradients(
    pairs: PairWeights,
    block: int,
    saved: tuple[Tensor | None, ...],
    grad: Tensor,
    needed: tuple[bool, ...],
) -> list[Tensor | None]:
    """By the formulas at the head of this file; the systems are made and factored again."""
    of_bias = BiasGradients(pairs, list(saved[:3]), needed[:3], _grouped(saved[3], saved[5]).shape)
    sums = [t.new_zeros(t.shape) for t in saved[3:]]  # contiguous, unlike those of torch.zeros_like
    query, places, keys, points, values, ridge = sums
    query, places, own = (_grouped(t, keys) for t in (query, places, grad))
    keys, points, values = (t.flatten(0, 1) for t in (keys, points, values))
    of_ridge = _grouped(ridge.new_zeros(grad.shape[0], *ridge.shape), sums[2])
    for part in _parts(pairs, block, *saved[3:]):
        found = differentiate(part.fits, own[part.at].flatten(1, 2), needed[-1])
        part.put(query, found.logits @ part.keys)
        part.put(places, found.places)
        keys[part.seen].baddbmm_(found.logits.mT, part.query)
        points[part.seen] += found.points
        values[part.seen] += found.values
        if found.ridge is not None:
            of_ridge[part.at[0]] += found.ridge.unflatten(1, (of_ridge.shape[1], -1)).sum(2)
        of_bias.add(part.at[0], part.at[2], found.logits)
    ridge.copy_(of_ridge.view(-1, *ridge.shape).sum(0))
    return [t if wanted else None for t, wanted in zip((*of_bias.sums, *sums), needed)]


def _differentiable(
    pairs: PairWeights,
    block: int,
    saved: tuple[Tensor | None, ...],
    grad: Tensor,
    needed: tuple[bool, ...],
) -> list[Tensor | None]:
    """Gradients that can be differentiated again, through torch's own operations, with respect to views:
    where one input was computed from another, the path between them belongs to the outer graph."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = [t.view_as(t) if wanted else t for t, wanted in zip(saved, needed)]
        query, places, keys, points, values, ridge = inputs[3:]
        weights = with_tensors(pairs, *inputs[:3])
        y = torch.cat(
            [
                read_block(
                    weights,
                    t,
                    query[:, :, t : t + 1],
                    places[:, :, t : t + 1],
                    keys,
                    points,
                    values,
                    2,
                    ridge,
                )
                for t in range(query.shape[2])
            ],
            dim=2,
        )
    found = iter(
        torch.autograd.grad(
            y,
            [t for t, wanted in zip(inputs, needed) if wanted],
            grad,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
    )
    return [next(found) if wanted else None for wanted in needed]
