"""Softmax attention with weights of position by torch's fused CPU kernel, which does not store the scores:
forward, gradients and their gradients.

Letters: query t, pair j, logits s_tj = q_t.k_j + z_j + C_t with z_j the pair's own log weight and C_t the
cumulative log decay at token t.

Gradients. With p = softmax(s), y_t = sum_j p_tj v_j and a gradient g of y: ds_tj = p_tj (g_t.v_j - g_t.y_t).
Its rows sum to 0, so C_t, which all logits of a row share, has none, and z_j has sum_t ds_tj. The kernel
differentiates q, k and v, and not its mask; but its dk_j is sum_t ds_tj q_t, and so one more channel, 1 in
every query and 0 in every key, makes it give the gradient of z_j too.

Digits. z_j + C_t is a difference of two sums, either of which may be large where the other cancels it. So a
block of queries attends to the pairs before it in a separate call, whose mask [B,H,1,P] holds their log
weights at the border between them; the log decay from the border to each query is added to the log-sum-exp by
which the two read-outs are merged (FlashAttention's rule, arXiv 2205.14135): no term of either sign is added
to one of the other, and no mask of T x T is formed. Within the block the differences are formed as such.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad, threshold, threshold_

from ttr.engines.native import library
from ttr.forms.pair_weights import CumulativeDecay, PairWeights
from ttr.torch_internals import FLASH_ATTENTION, FLASH_ATTENTION_BACKWARD, in_batches, is_transformed

FLOOR = -1e30
"""The log weight of pairs of weight 0: below every logit, yet finite, so that rows without any pair have a
finite log-sum-exp."""

NEGLIGIBLE = {torch.float32: 30.0, torch.float64: 60.0}
"""A pair whose log weight is this far below that of the token's own pair, whatever their scores, changes no
digit. It is left out: next to it come numbers that are denormal, with which a CPU computes many times slower,
and where no pair of a piece counts, neither does the piece."""

LANES = 8
"""Head sizes that are padded are padded to a multiple of this: whole vectors."""


def attend(
    pairs: PairWeights,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    block: int,
    composite: Callable[..., Tensor],
) -> Tensor:
    """The read-outs [B,H,T,V] of queries [B,H,T,F], keys [B,Hk,M,F] and values [B,Hk,M,V], ``block`` queries
    at a time, with the logits' dot products multiplied by ``scale``.

    On the CPU, not empty, in float32 or float64. Memory grows linearly with M, for the gradients too.
    ``composite`` gives the same of (pairs, query, keys, values, scale) by operations that can be
    differentiated any number of times.
    """
    decay = (None, None) if pairs.decay is None else (pairs.decay.total, pairs.decay.resets)
    least = -math.inf
    if pairs.decay is not None and pairs.importance is None:
        # scores are at most |q| |k| apart from 0
        reach = scale * math.prod(x.detach().norm(dim=-1).amax().item() for x in (query, keys))
        least = -NEGLIGIBLE[query.dtype] - 2 * reach
    call = _Call(scale, block, pairs.window, composite, least)
    return _Attention.apply(call, query, keys, values, pairs.past, pairs.age, *decay, pairs.importance)


def attend_once(
    query: Float[Tensor, "B H F"],
    keys: Float[Tensor, "B h N F"],
    values: Float[Tensor, "B h N V"],
    log_weight: Float[Tensor, "B H N"] | None,
    scale: float,
) -> Float[Tensor, "B H V"]:
    """The read-out of one query per head, without gradients; every query has a pair of weight above 0."""
    size = _width(query.shape[-1], values.shape[-1], 0)
    weights = None if log_weight is None else log_weight[:, :, None].clamp(min=FLOOR)
    wide = (_widened(x, size) for x in (query[:, :, None], keys, values))
    y, _ = _read(*wide, _Piece(slice(0, 1), slice(0, keys.shape[2]), weights), scale)
    return y[:, :, 0, : values.shape[-1]]


@dataclass(frozen=True)
class _Piece:
    """The arguments of one kernel call: queries, the pairs they attend to, the log weights [#B,#H,#C,P] of
    those, and a further log decay per query, [B,H,C]. With ``causal`` the pairs are the queries' own
    tokens."""

    rows: slice
    pairs: slice
    weights: Tensor | None
    decay: Tensor | None = None
    causal: bool = False


@dataclass(frozen=True)
class _Call:
    """The arguments of a call that are not tensors, and its division into pieces."""

    scale: float
    block: int
    window: int | None
    composite: Callable[..., Tensor]
    least: float
    """Pairs of a smaller log weight are left out."""

    def pairs(
        self,
        past: Tensor,
        age: Tensor,
        total: Tensor | None,
        resets: Tensor | None,
        importance: Tensor | None,
    ) -> PairWeights:
        return PairWeights(
            past, age, None if total is None else CumulativeDecay(total, resets), importance, self.window
        )

    def by_queries(self, pairs: PairWeights, like: Tensor) -> Iterator[list[_Piece]]:
        """One block of queries after another. Its pieces are valid until the next is requested."""
        for own in self._blocks(pairs, like):
            start = own.rows.start
            alone = self.window is not None or pairs.slots + start == 0
            before = None if alone else self._apart(pairs, own.rows, slice(0, pairs.slots + start), start)
            yield [own] if before is None else [own, before]

    def by_pairs(self, pairs: PairWeights, like: Tensor) -> Iterator[_Piece]:
        """The same, one block of pairs after another, so that only the queries' gradients are summed over
        blocks."""
        time = like.shape[2]
        if self.window is None and pairs.slots:
            yield from self._later(pairs, slice(0, time), slice(0, pairs.slots), 0)
        for own in self._blocks(pairs, like):
            yield own
            if self.window is None and own.rows.stop < time:
                yield from self._later(pairs, slice(own.rows.stop, time), own.pairs, own.rows.stop)

    def _apart(self, pairs: PairWeights, rows: slice, met: slice, border: int) -> _Piece | None:
        """Queries after, and pairs before, the border before token ``border``, without those pairs that are
        left out for all of them; None if that is so of all pairs."""
        weights = pairs.earlier(border)[..., met]
        decay = None if pairs.decay is None else pairs.decay.since(border, rows.stop).to(pairs.past)
        if self.least > -math.inf:
            weights = threshold(weights, self.least, FLOOR)
            seen = (weights > FLOOR).flatten(0, -2).any(0).nonzero()
            if len(seen) == 0:
                return None
            first = int(seen[0])
            weights, met = weights[..., first:], slice(met.start + first, met.stop)
            decay = threshold(decay, self.least, FLOOR)
        return _Piece(rows, met, weights.clamp(min=FLOOR), None if decay is None else decay.clamp(min=FLOOR))

    def _later(self, pairs: PairWeights, rows: slice, met: slice, border: int) -> Iterator[_Piece]:
        """The same, also without those queries for which all pairs are left out."""
        piece = self._apart(pairs, rows, met, border)
        if piece is not None and self.least > -math.inf:
            reached = (piece.decay > self.least).flatten(0, -2).any(0).nonzero()
            count = int(reached[-1]) + 1 if len(reached) else 0
            rows = slice(rows.start, rows.start + count)
            piece = replace(piece, rows=rows, decay=piece.decay[..., :count]) if count else None
        if piece is not None:
            yield piece

    def _blocks(self, pairs: PairWeights, like: Tensor) -> Iterator[_Piece]:
        """Blocks of queries with their own tokens, or with all pairs of their windows."""
        time, size = like.shape[2], min(self.block, like.shape[2])
        buffer = (
            like.new_empty(*like.shape[:2], size, size)
            if pairs.decay is not None and self.window is None
            else None
        )
        for start in range(0, time, size):
            stop = min(start + size, time)
            first = pairs.slots + start if self.window is None else pairs.first_seen(start)
            if self.window is None:
                weights = pairs.own(
                    start, stop, buffer if buffer is None else buffer[..., : stop - start, : stop - start]
                )
            else:
                weights = pairs.block(start, stop)
            weights = weights if pairs.importance is None else weights.clamp(min=FLOOR)
            if self.least > -math.inf:
                weights = threshold_(weights, self.least, FLOOR)
            yield _Piece(
                slice(start, stop), slice(first, pairs.slots + stop), weights, causal=self.window is None
            )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call, query, keys, values, past, age, total, resets, importance):
        pairs = call.pairs(past, age, total, resets, importance)
        size = _width(query.shape[-1], values.shape[-1], 0)
        wide = [_widened(x, size) for x in (query, keys, values)]
        y, norm = (
            query.new_empty(query.transpose(1, 2).shape[:3] + (size,)).transpose(1, 2),
            query.new_empty(query.shape[:3]),
        )
        for pieces in call.by_queries(pairs, query):
            parts, rows = [_read(*wide, piece, call.scale) for piece in pieces], pieces[0].rows
            if len(parts) == 1 and rows == slice(0, query.shape[2]):  # nothing to merge
                y, norm = parts[0]
            else:
                _join(parts, y[:, :, rows], norm[:, :, rows])
        # only importances can leave a row without any pair; it reads 0 and has no gradients
        if importance is not None:
            empty = norm < FLOOR / 2
            y, norm = y.masked_fill(empty[..., None], 0.0), norm.masked_fill(empty, torch.inf)
        y = y[..., : values.shape[-1]]
        ctx.call = call
        ctx.save_for_backward(query, keys, values, past, age, total, resets, importance, y, norm)
        return y

    @staticmethod
    def backward(ctx, grad_y):
        *inputs, y, norm = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            if torch.is_grad_enabled() or is_transformed() or in_batches(grad_y):
                return None, *_differentiable(ctx.call, inputs, grad_y)
            return None, *_gradients(
                ctx.call, inputs, y, norm, grad_y, weighted=any(ctx.needs_input_grad[4:])
            )


def _gradients(
    call: _Call, inputs: list[Tensor | None], y: Tensor, norm: Tensor, grad_y: Tensor, weighted: bool
) -> list[Tensor | None]:
    """Gradients of all inputs; those of the weights hold only if ``weighted``."""
    query, keys, values, *weights = inputs
    pairs, features = call.pairs(*weights), query.shape[-1]
    size = _width(features, values.shape[-1], int(weighted))
    wide = [_widened(x, size) for x in (query, keys, values, y, grad_y)]
    if weighted:
        wide[0][..., features] = 1 / call.scale
    grad_query = grad_keys = grad_values = None
    grad_weights = query.new_zeros(*query.shape[:2], keys.shape[2])
    for piece in call.by_pairs(pairs, query):
        dq, dk, dv = _differentiated(*wide, norm, piece, call.scale)
        grad_query = _plus(grad_query, dq, piece.rows, wide[0])
        grad_keys = _plus(grad_keys, _summed(dk, keys.shape[1]), piece.pairs, wide[1])
        grad_values = _plus(grad_values, _summed(dv, keys.shape[1]), piece.pairs, wide[2])
        if weighted:
            grad_weights[:, :, piece.pairs] += dk[..., features]
    _, _, total, _, importance = weights
    of_slots, of_tokens = grad_weights.split((pairs.slots, query.shape[2]), dim=-1)
    return [
        grad_query[..., :features],
        grad_keys[..., :features],
        grad_values[..., : values.shape[-1]],
        of_slots,
        None,
        None if total is None else -of_tokens.to(total),
        None,
        None if importance is None else of_tokens,
    ]


def _plus(total: Tensor | None, part: Tensor, where: slice, like: Tensor) -> Tensor:
    """A sum over pieces, of the shape of ``like``, plus one more; ``part`` itself if it covers the whole."""
    if total is None:
        if part.shape == like.shape:
            return part
        total = torch.zeros_like(like)
    total[:, :, where] += part
    return total


def _differentiable(call: _Call, inputs: list[Tensor | None], grad_y: Tensor) -> list[Tensor | None]:
    """Gradients that can be differentiated again. They are taken with respect to views, each a separate
    tensor: where one input was computed from another, the path between them belongs to the outer graph."""
    create_graph, real = torch.is_grad_enabled(), [x is not None and x.is_floating_point() for x in inputs]
    with torch.enable_grad():
        views = [
            x if not moves else x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
            for x, moves in zip(inputs, real)
        ]
        y = call.composite(call.pairs(*views[3:]), *views[:3], call.scale)
    each = iter(
        torch.autograd.grad(
            y,
            [x for x, moves in zip(views, real) if moves],
            grad_y,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
    )
    return [next(each) if moves else None for moves in real]


# ------------------------------------------------------------------------------------------------- the kernel
def _read(query: Tensor, keys: Tensor, values: Tensor, piece: _Piece, scale: float) -> tuple[Tensor, Tensor]:
    """Read-outs [B,H,C,D] and the logs of their sums of exponentials [B,H,C], of keys and values
    [B,Hk,M,D]."""
    heads, query = keys.shape[1], query[:, :, piece.rows]
    y, log_sum = FLASH_ATTENTION(
        _rows(_by_group(query, heads)),
        *(_shared(_rows(x[:, :, piece.pairs]), query) for x in (keys, values)),
        0.0,
        piece.causal,
        attn_mask=_rows(_by_group(piece.weights, heads)),
        scale=scale,
    )
    y, log_sum = y.reshape(query.shape), log_sum.reshape(query.shape[:3])
    return y, log_sum if piece.decay is None else log_sum + piece.decay


def _differentiated(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    y: Tensor,
    grad_y: Tensor,
    norm: Tensor,
    piece: _Piece,
    scale: float,
) -> tuple[Tensor, ...]:
    """Gradients of the piece's queries, keys and values, the latter two for every head; ``norm`` is the log
    of the sum of all exponentials."""
    heads, (query, y, grad_y, norm) = keys.shape[1], (x[:, :, piece.rows] for x in (query, y, grad_y, norm))
    norm = norm if piece.decay is None else norm - piece.decay
    gradients = FLASH_ATTENTION_BACKWARD(
        *(_rows(_by_group(x, heads)) for x in (grad_y, query)),
        *(_shared(_rows(x[:, :, piece.pairs]), query) for x in (keys, values)),
        _rows(_by_group(y, heads)),
        _by_group(norm, heads),
        0.0,
        piece.causal,
        attn_mask=_rows(_by_group(piece.weights, heads)),
        scale=scale,
    )
    return tuple(x.reshape(*query.shape[:2], *x.shape[2:]) for x in gradients)


def _rows(x: Tensor | None) -> Tensor | None:
    """With a last axis of stride 1, which the kernel assumes; in some versions for the mask too."""
    return None if x is None else library.rows(x)


def _by_group(x: Tensor | None, heads: int) -> Tensor | None:
    """[B,H,...] as [B Hk,G,...], the G queries that share a key in place of the heads; unchanged without
    groups or heads."""
    return (
        x
        if x is None or x.shape[1] in (1, heads)
        else x.reshape(x.shape[0] * heads, x.shape[1] // heads, *x.shape[2:])
    )


def _shared(x: Tensor, query: Tensor) -> Tensor:
    """[B,Hk,P,D] as [B Hk,G,P,D], without a copy for the G queries."""
    if x.shape[1] == query.shape[1]:
        return x
    return x.reshape(-1, 1, *x.shape[2:]).expand(-1, query.shape[1] // x.shape[1], -1, -1)


def _summed(x: Tensor, heads: int) -> Tensor:
    """[B,H,P,D] summed over those that share a key, [B,Hk,P,D]."""
    return x if x.shape[1] == heads else x.unflatten(1, (heads, -1)).sum(2)


def _join(parts: list[tuple[Tensor, Tensor]], y: Tensor, norm: Tensor) -> None:
    """Write the read-outs of one or two sets of pairs, each with the logs of their sums of exponentials, as
    those of all pairs."""
    if len(parts) == 1:
        y.copy_(parts[0][0])
        norm.copy_(parts[0][1])
        return
    (y_first, log_first), (y_second, log_second) = parts
    torch.lerp(y_second, y_first, (log_first - log_second).sigmoid()[..., None], out=y)
    torch.logaddexp(log_first, log_second, out=norm)


def _width(features: int, values: int, more: int) -> int:
    """The common size of keys and values that the kernel needs, with ``more`` channels added to the keys."""
    size = max(features + more, values)
    return size if features == values == size else -(-size // LANES) * LANES


def _widened(x: Tensor, size: int) -> Tensor:
    return x if x.shape[-1] == size else pad(x, (0, size - x.shape[-1]))
