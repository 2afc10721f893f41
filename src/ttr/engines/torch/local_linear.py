"""The local linear fit around every query, in blocks of queries, and its derivative.

With p = softmax(logits + log gamma), m = sum_i p_i k_i and z_i = k_i - m, the fit v = b + A (k - q) read at
the query is

    y = sum_i a_i v_i,   a_i = p_i (1 - z_i.rho),   R rho = m - q,   R = sum_i p_i z_i z_i^T + diag(ridge),

in which nothing cancels when the query is far from its keys (arXiv 2501.12352; 2510.01450 gives the uncentred
form). For g the derivative of a loss in y, c_i = g.v_i, cbar = sum_i p_i c_i and f = sum_i p_i (c_i - cbar)
z_i, the implicit function theorem asks for one more solve, R eta = f, and gives with e_i = c_i - cbar -
z_i.eta

    d logits_i = a_i e_i + p_i (rho.diag(ridge) eta),   dk_i = -p_i e_i rho - a_i eta,
    dq = eta,   dv_i = a_i g,   dridge = eta * rho.

(Put d rho = R^-1 (dm - dq - dR rho) into d y; the logits' part sums to 0 because sum_i a_i e_i =
-rho.diag(ridge) eta.) A rho that is given instead of solved for has eta = 0 and d rho = -f, and rho.f in the
place of rho.diag(ridge) eta.

Letters: U groups of heads that share their keys (batch times key heads), S heads of a group, C tokens of a
block, P pairs that they see, D channels of the displacement k - q, R = S C rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ttr.engines.native import local_linear as kernels
from ttr.engines.torch.covariance_solve import Covariances, products_of, solve
from ttr.engines.torch.direct_solve import require_digits
from ttr.engines.torch.implicit_solve import System
from ttr.engines.torch.implicit_solve import solve as solve_twice_differentiable
from ttr.forms.pair_weights import PairWeights, probabilities
from ttr.torch_internals import in_batches

SCORES, KERNEL_SCORES = 2**19, 2**21
"""Scores computed at a time: few enough for a few such tensors to stay in the cache. A kernel reads them once
per step and divides them among its threads, so it takes more."""


class LocalFits(NamedTuple):
    """The tensors of the fits: ``query`` and ``keys`` of the kernel, and ``points``, whose displacements are
    those from ``places``."""

    query: Float[Tensor, "U S T K"]
    keys: Float[Tensor, "U M K"]
    places: Float[Tensor, "U S T D"]
    points: Float[Tensor, "U M D"]
    values: Float[Tensor, "U M V"]
    ridge: Float[Tensor, "U S D"] | None
    slope: Float[Tensor, "U S T D"] | None


class _Part(NamedTuple):
    """A block of queries of some groups: their indices, and the pairs that the block sees."""

    at: tuple[slice, slice, slice]
    seen: tuple[slice, slice]
    weights: Float[Tensor, "g R P"]
    query: Float[Tensor, "g R K"]
    keys: Float[Tensor, "g P K"]
    places: Float[Tensor, "g R D"]
    points: Float[Tensor, "g P D"]
    products: Float[Tensor, "g P E"] | None
    values: Float[Tensor, "g P V"]
    ridge: Float[Tensor, "g R D"] | None
    few: Bool[Tensor, " R"]
    spare: tuple[Float[Tensor, "g R P"], ...]

    def rows(self, x: Float[Tensor, "U S T d"]) -> Float[Tensor, "g R d"]:
        return x[self.at].flatten(1, 2)

    def put(self, x: Float[Tensor, "U S T d"], rows: Float[Tensor, "g R d"]) -> None:
        target = x[self.at]
        target.copy_(rows.view(target.shape))


def fit(pairs: PairWeights, fits: LocalFits, block: int) -> Float[Tensor, "U S T V"]:
    """The fits read at their queries. Differentiable any number of times; its saved tensors grow linearly
    with T."""
    total = None if pairs.decay is None else pairs.decay.total
    return _Fit.apply(pairs, block, pairs.past, total, pairs.importance, *fits)


class _Fit(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        pairs: PairWeights,
        block: int,
        past: Tensor,
        total: Tensor | None,
        importance: Tensor | None,
        *tensors: Tensor | None,
    ) -> Tensor:
        fits = LocalFits(*tensors)
        y, rho = (_read_compiled if kernels.serves(fits) else _read)(pairs, fits, block)
        # no point is farther from a mean of points than twice the largest distance from the first point
        if fits.slope is None and rho.numel():
            require_digits(rho, 2 * (fits.points - fits.points[:, :1]).norm(dim=-1).amax(1)[:, None, None])
        ctx.pairs, ctx.block = pairs, block
        ctx.save_for_backward(past, total, importance, *tensors, rho)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, rho = ctx.saved_tensors
        gradients = _differentiable if torch.is_grad_enabled() or in_batches(grad) else _gradients
        found = iter(gradients(ctx.pairs, ctx.block, inputs, rho, grad, ctx.needs_input_grad[2:]))
        return None, None, *(next(found) if needed else None for needed in ctx.needs_input_grad[2:])


def _read(
    pairs: PairWeights, fits: LocalFits, block: int
) -> tuple[Float[Tensor, "U S T V"], Float[Tensor, "U S T D"]]:
    """What all queries read, and their slopes."""
    y = fits.query.new_empty(*fits.query.shape[:3], fits.values.shape[-1])
    rho = torch.empty_like(fits.places) if fits.slope is None else fits.slope
    for part in _parts(pairs, fits, block, spare=1):
        (scratch,) = part.spare
        if fits.slope is None:
            system = Covariances.of(part.weights, part.points, part.products, part.ridge, scratch)
            part.put(rho, solve(system, system.mean - part.places, part.few))
        else:
            system = Covariances(part.weights, part.points, None, part.weights @ part.points, scratch)
            system.tilt(part.rows(rho))
        part.put(y, torch.sub(part.weights, scratch, out=scratch) @ part.values)
    return y, rho


def _read_compiled(
    pairs: PairWeights, fits: LocalFits, block: int
) -> tuple[Float[Tensor, "U S T V"], Float[Tensor, "U S T D"]]:
    kernel = kernels.Kernel(fits._asdict(), pairs.slots)
    outputs = kernel.outputs()
    for rows, bias in _blocks(pairs, fits, block):
        kernel.read(rows.start, rows.stop, pairs.first_seen(rows.start), bias)
    return outputs


def _blocks(
    pairs: PairWeights, fits: LocalFits, block: int
) -> Iterator[tuple[slice, Float[Tensor, "U S C P"] | None]]:
    """The tokens of every block for the kernels, with their log weights: fewer where they see many pairs."""
    sharing, time = fits.query.shape[1:3]
    block = min(block, max(KERNEL_SCORES // max(sharing * (pairs.slots + time), 1), 16))
    for start in range(0, time, block):
        stop = min(start + block, time)
        yield slice(start, stop), None if pairs.plain else block_bias(pairs, sharing, start, stop)


def _parts(pairs: PairWeights, fits: LocalFits, block: int, spare: int) -> Iterator[_Part]:
    """Block by block, with ``spare`` tensors of the size of its scores to be overwritten."""
    groups, sharing, time = fits.query.shape[:3]
    slots, size = pairs.past.shape[-1], fits.points.shape[-1]
    # Only differences matter. They are taken relative to a point of the block, or to the first where all
    # products are computed once, so that points far from 0 lose no digits.
    first_point = fits.points[:, slots : slots + min(time, 1)]
    products = products_of(fits.points - first_point) if fits.slope is None and time else None
    most = (
        sharing * min(block, time) * (slots + time if pairs.window is None else slots + pairs.window + block)
    )
    buffers = [fits.query.new_empty(max(most, min(SCORES, most * groups))) for _ in range(spare + 1)]
    for start in range(0, time, block):
        stop = min(start + block, time)
        first, last = pairs.first_seen(start), slots + stop
        shape = (sharing * (stop - start), last - first)
        bias, step = (
            None if pairs.plain else block_bias(pairs, sharing, start, stop),
            max(SCORES // (shape[0] * shape[1]), 1),
        )
        few = (slots + torch.arange(start, stop, device=pairs.past.device) + 1 < 2 * size).repeat(sharing)
        for group in range(0, groups, step):
            units = slice(group, min(group + step, groups))
            count = (units.stop - units.start) * shape[0] * shape[1]
            weights, *rest = (buffer[:count].view(-1, *shape) for buffer in buffers)
            at, seen = (units, slice(None), slice(start, stop)), (units, slice(first, last))
            query, keys = fits.query[at].flatten(1, 2), fits.keys[seen]
            logits = torch.bmm(query, keys.mT, out=rest[0])
            if bias is None:
                logits.unflatten(1, (sharing, -1))[..., start - stop :].add_(_future(stop - start, logits))
            else:
                logits.add_(bias[units].flatten(1, 2))
            if pairs.importance is None:
                torch.softmax(logits, -1, out=weights)
            else:
                weights.copy_(probabilities(logits, True))
            origin = fits.points[units, slots + start, None] if products is None else first_point[units]
            points = fits.points[seen] - origin if products is None else products[seen][..., :size]
            ridge = (
                None
                if fits.ridge is None
                else fits.ridge[units, :, None].expand(-1, -1, stop - start, -1).flatten(1, 2)
            )
            yield _Part(
                at,
                seen,
                weights,
                query,
                keys,
                fits.places[at].flatten(1, 2) - origin,
                points,
                None if products is None else products[seen],
                fits.values[seen],
                ridge,
                few,
                tuple(rest),
            )


def _future(size: int, like: Tensor) -> Float[Tensor, "C C"]:
    return torch.full((size, size), -torch.inf, dtype=like.dtype, device=like.device).triu(1)


def block_bias(pairs: PairWeights, sharing: int, start: int, stop: int) -> Float[Tensor, "U S C P"]:
    """The log weights of ``pairs.block``."""
    bias = pairs.block(start, stop)
    batch, heads = pairs.past.shape[:2]
    return bias.expand(batch, heads, -1, -1).reshape(batch * heads // sharing, sharing, *bias.shape[2:])


def _gradients(
    pairs: PairWeights,
    block: int,
    inputs: list[Tensor | None],
    rho: Tensor,
    grad: Tensor,
    needed: tuple[bool, ...],
) -> list[Tensor]:
    """By the formulas at the head of this file; weights are recomputed block by block."""
    fits = LocalFits(*inputs[3:])
    of_bias = BiasGradients(pairs, inputs[:3], needed[:3], rho.shape)
    sums = (_compiled_sums if kernels.serves((*fits, grad)) else _sums)(
        pairs, fits, block, rho, grad, of_bias
    )
    return [x for x, wanted in zip((*of_bias.sums, *sums), needed) if wanted]


def _compiled_sums(
    pairs: PairWeights, fits: LocalFits, block: int, rho: Tensor, grad: Tensor, of_bias: BiasGradients
) -> LocalFits:
    kernel = kernels.Kernel(fits._asdict(), pairs.slots, backwards=True)
    sums = kernel.gradients(rho, grad)
    for rows, bias in _blocks(pairs, fits, block):
        logits = kernel.differentiate(
            rows.start, rows.stop, pairs.first_seen(rows.start), bias, of_bias.wanted
        )
        if logits is not None:
            of_bias.add(slice(0, len(logits)), rows, logits)
    return LocalFits(**{name: sums.get(name) for name in LocalFits._fields})


def _sums(
    pairs: PairWeights, fits: LocalFits, block: int, rho: Tensor, grad: Tensor, of_bias: BiasGradients
) -> LocalFits:
    """The gradients of the fits' tensors; those of the logits are passed to ``of_bias``."""
    sums = LocalFits(*(None if x is None else torch.zeros_like(x) for x in fits))
    for part in _parts(pairs, fits, block, spare=3):
        scratch, across, other = part.spare
        g, slope = part.rows(grad), part.rows(rho)
        torch.bmm(g, part.values.mT, out=across)
        across.sub_(torch.mul(part.weights, across, out=scratch).sum(-1, keepdim=True))
        if fits.slope is None:
            system = Covariances.of(part.weights, part.points, part.products, part.ridge, other)
            eta = solve(system, torch.mul(part.weights, across, out=scratch) @ part.points, part.few)
            tilted = scratch.sub_(other)
            shift = (slope * part.ridge * eta).sum(-1, keepdim=True)
            part.put(sums.places, eta)
            sums.ridge[part.at[0]] += (eta * slope).unflatten(1, (rho.shape[1], -1)).sum(2)
        else:
            system = Covariances(part.weights, part.points, None, part.weights @ part.points, other)
            tilted = torch.mul(part.weights, across, out=scratch)
            along = tilted @ part.points
            shift = (slope * along).sum(-1, keepdim=True)
            part.put(sums.slope, -along)
        # across = 1 - z.rho, then the derivative in the logits in ``other`` and a in ``across``.
        torch.baddbmm(
            1 + (slope * system.mean).sum(-1, keepdim=True), slope, part.points.mT, alpha=-1, out=across
        )
        logits = torch.mul(across, tilted, out=other).addcmul_(part.weights, shift)
        counts = across.mul_(part.weights)
        part.put(sums.query, logits @ part.keys)
        sums.keys[part.seen].baddbmm_(logits.mT, part.query)
        sums.values[part.seen].baddbmm_(counts.mT, g)
        sums.points[part.seen].baddbmm_(tilted.mT, slope, alpha=-1)
        if fits.slope is None:
            sums.points[part.seen].baddbmm_(counts.mT, eta, alpha=-1)
        of_bias.add(part.at[0], part.at[2], logits)
    return sums


class BiasGradients:
    """The gradients of the pair weights' tensors, from those of the logits, in blocks of all groups."""

    def __init__(
        self, pairs: PairWeights, tensors: list[Tensor | None], needed: tuple[bool, ...], shape: torch.Size
    ) -> None:
        self.pairs, self.needed, self.shape = pairs, needed, shape
        self.tensors = [x.detach().requires_grad_() if wanted else x for x, wanted in zip(tensors, needed)]
        self.sums = [torch.zeros_like(x) if wanted else None for x, wanted in zip(tensors, needed)]
        self.block: Tensor | None = None

    @property
    def wanted(self) -> bool:
        return any(self.needed)

    def add(self, units: slice, rows: slice, logits: Float[Tensor, "*shape P"]) -> None:
        """Add the logits' gradients of some groups and a block's tokens; with the last groups the block is
        propagated."""
        if not self.wanted:
            return
        groups, sharing = self.shape[:2]
        if units.start == 0:
            self.block = self.pairs.past.new_empty(groups, sharing, rows.stop - rows.start, logits.shape[-1])
        self.block[units] = logits.view_as(self.block[units])
        if units.stop == groups:
            with torch.enable_grad():
                bias = block_bias(with_tensors(self.pairs, *self.tensors), sharing, rows.start, rows.stop)
                if not bias.requires_grad:  # no slot is within the window
                    return
                wanted = [x for x, needed in zip(self.tensors, self.needed) if needed]
                found = iter(
                    torch.autograd.grad(bias, wanted, self.block, allow_unused=True, materialize_grads=True)
                )
            for total in self.sums:
                if total is not None:
                    total += next(found)


def with_tensors(
    pairs: PairWeights, past: Tensor, total: Tensor | None, importance: Tensor | None
) -> PairWeights:
    """The weights with their differentiable tensors replaced."""
    decay = None if pairs.decay is None else dataclasses.replace(pairs.decay, total=total)
    return dataclasses.replace(pairs, past=past, decay=decay, importance=importance)


# ----------------------------------------------------------------------------------------- second derivatives
def _differentiable(
    pairs: PairWeights,
    block: int,
    inputs: list[Tensor | None],
    rho: Tensor,
    grad: Tensor,
    needed: tuple[bool, ...],
) -> list[Tensor]:
    """Gradients that can be differentiated again, through torch's own operations. They are taken with respect
    to views, each a separate tensor: where one input was computed from another, the path between them belongs
    to the outer graph."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = [x.view_as(x) if wanted else x for x, wanted in zip(inputs, needed)]
        y = _composite(with_tensors(pairs, *inputs[:3]), LocalFits(*inputs[3:]), block)
    wanted = [x for x, needed in zip(inputs, needed) if needed]
    return list(
        torch.autograd.grad(
            y, wanted, grad, create_graph=create_graph, allow_unused=True, materialize_grads=True
        )
    )


def _composite(pairs: PairWeights, fits: LocalFits, block: int) -> Float[Tensor, "U S T V"]:
    sharing, slots, time, outputs = fits.query.shape[1], pairs.past.shape[-1], fits.query.shape[2], []
    for start in range(0, time, block):
        rows = slice(start, min(start + block, time))
        seen = slice(pairs.first_seen(start), slots + rows.stop)
        origin = fits.points[:, slots + start, None].detach()
        keys, points, values = fits.keys[:, seen], fits.points[:, seen] - origin, fits.values[:, seen]
        logits = fits.query[:, :, rows] @ keys[:, None].mT + block_bias(pairs, sharing, rows.start, rows.stop)
        weights = probabilities(logits, pairs.importance is not None).flatten(1, 2)
        mean = weights @ points
        if fits.slope is None:
            ridge = fits.ridge[:, :, None].expand(-1, -1, rows.stop - start, -1).flatten(1, 2)
            right = mean - (fits.places[:, :, rows].flatten(1, 2) - origin)
            rho = solve_twice_differentiable(System(weights, points, ridge, mean), right)
        else:
            rho = fits.slope[:, :, rows].flatten(1, 2)
        counts = weights * (1 - (rho @ points.mT - (rho * mean).sum(-1, keepdim=True)))
        outputs.append((counts @ values).unflatten(1, (sharing, -1)))
    return torch.cat(outputs, dim=2)
