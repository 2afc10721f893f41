"""Products of rows and keys under decay, sum_d row_id key_jd e^{r_id - b_jd}, without an exponential that can
overflow.

b is the cumulative log decay of a chunk (falling from 0), r that of a row, either b itself or b of the pair
before. Row and key get one exponential each, relative to a reference x: e^{r - x} on the row, e^{x - b} on
the key.

    flat     x = 0 for the whole chunk where b >= -REACH: the rows shrink, and the keys grow by at most
             e^REACH
    halved   else: in a block of 2, 4, ..., C tokens, rows of the late half meet keys of the early half with x
             at the border between them, where both exponents are <= 0 for any decay; in blocks so small that
             none falls by more than REACH, x is the block's start; where even single tokens fall by more,
             every pair inside a token gets an exponential of its own

Letters: M chunks of C tokens, G batch x heads, n pairs per token, J = C n keys, R rows, E = F with a decay
per channel, else 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from ttr.engines.torch.linear.geometry import Geometry
from ttr.forms.linear_recurrence import LinearRecurrence

REACH = 30.0
"""The largest positive exponent: with e^30 = 1e13, products of any length stay in the range of float32."""


class Decays:
    """The decay factors of the rows, keys and memories of one super-block; without decay every factor is
    None.

    ``row`` and ``key`` multiply rows and keys for their products (None where these are halved),
    ``row_to_memory`` and ``key_to_memory`` multiply them further to read the memory that enters and to write
    to the one that leaves, ``chunk`` is the decay of the memory over a chunk.
    """

    def __init__(
        self, g: Geometry, r: LinearRecurrence, log_decay: Tensor | None, dtype: torch.dtype
    ) -> None:
        self.row = self.key = self.row_to_memory = self.key_to_memory = self.chunk = None
        self.halving: tuple[Halving, ...] = ()
        if log_decay is None:
            return
        log = log_decay.cumsum(2, dtype=torch.float64)
        before = pad(log, (0, 0, 1, -1)) if r.old or r.reads_first else log
        parts = [
            (before if part.before else log)[:, :, part.every - 1 :: part.every] for part in row_parts(g, r)
        ]
        rows = torch.cat(parts, dim=2)
        copies = g.keys // g.pairs
        whole = log[:, :, -1:]
        self.chunk = whole.mT.to(dtype).exp()
        if flat(log):
            self.row, self.key = rows.to(dtype).exp(), torch.exp(-log.to(dtype)).repeat(1, 1, copies, 1)
            self.key_to_memory = self.chunk.mT
        else:
            leaf = leaf_tokens(log, g.tokens)
            self.halving = tuple(
                Halving(part, logs, log, g.tokens, leaf) for part, logs in zip(row_parts(g, r), parts)
            )
            self.row_to_memory = rows.to(dtype).exp()
            self.key_to_memory = (whole - log).to(dtype).exp().repeat(1, 1, copies, 1)


class RowPart(NamedTuple):
    """The rows of P, or of Q: their slice of all rows, the number of pairs per row, and whether a row's decay
    ends at the pair before its own."""

    rows: slice
    every: int
    before: bool

    def on_pairs(self, dots: Float[Tensor, "*lead r E"]) -> Float[Tensor, "*lead pairs E"]:
        """Numbers of rows, each moved to the last pair that its decay includes."""
        if self.every > 1:
            spread = dots.new_zeros(*dots.shape[:-2], self.every * dots.shape[-2], dots.shape[-1])
            spread[..., self.every - 1 :: self.every, :] = dots
            dots = spread
        return pad(dots[..., 1:, :], (0, 0, 0, 1)) if self.before else dots


def row_parts(g: Geometry, r: LinearRecurrence) -> tuple[RowPart, ...]:
    """The parts of the rows X = [P; Q]; P only with an error-correcting solver."""
    queries = RowPart(slice(g.rows - g.tokens, g.rows), r.pairs, r.reads_first)
    return (queries,) if r.read is None else (RowPart(slice(0, g.pairs), 1, r.old), queries)


def dots(x: Tensor, gradient: Tensor, channels: bool) -> Tensor:
    """x.dx of every row or key, [..., E]: of every channel by itself, or their sum."""
    return x * gradient if channels else torch.linalg.vecdot(x, gradient)[..., None]


def flat(log: Float[Tensor, "M G J E"]) -> bool:
    """Whether one reference can serve a whole chunk, in every chunk."""
    return log[:, :, -1].amin().item() >= -REACH


def leaf_tokens(log: Float[Tensor, "M G J E"], tokens: int) -> int:
    """The largest power of two such that the log decay falls by at most REACH over any block of so many
    tokens; else 1, where pairs inside a token get exponentials of their own if the decay is that strong."""
    size = tokens
    while size > 1:
        ends = log.unflatten(2, (tokens // size, -1))[:, :, :, -1]
        fall = torch.cat([ends[:, :, :1], ends.diff(dim=2)], dim=2)
        if fall.amin().item() >= -REACH:
            break
        size //= 2
    return size


class Halving:
    """The products of one part of the rows with the keys, level by level, and their derivative.

    The gradient of a log decay is a sum without cancellation: the exponent of a row and a key on two sides of
    a border is the sum of the log decays between them. So a log decay of the late half gets the sum of
    row.d_row from its place on, one of the early half the sum of key.d_key over the keys before it.
    """

    def __init__(
        self,
        part: RowPart,
        log_rows: Float[Tensor, "M G R E"],
        log_keys: Float[Tensor, "M G J E"],
        tokens: int,
        leaf: int,
    ) -> None:
        self.part, self.log_rows, self.log_keys = part, log_rows, log_keys
        self.tokens, self.leaf, self.channels = tokens, leaf, log_keys.shape[-1] > 1

    def products(
        self, rows: Float[Tensor, "M G R F"], keys: Float[Tensor, "M G J F"], out: Float[Tensor, "M G R J"]
    ) -> None:
        """Fill the entries of ``out`` for earlier pairs; those for later pairs must be masked."""
        for level, row_log, key_log in self._levels():
            shrunk = level.rows(rows) * row_log.to(rows.dtype).exp()
            grown = level.keys(keys) * key_log.to(keys.dtype).exp()
            level.squares(out).copy_(shrunk @ grown.mT)
        if self.leaf == 1:
            token, between = _Level(self.tokens), self._inside_tokens(rows.dtype)
            pairs = token.rows(rows)[..., :, None, :] * token.keys(keys)[..., None, :, :]
            token.squares(out).copy_((pairs * between).sum(-1))

    def add_gradients(
        self,
        grad: Float[Tensor, "M G R J"],
        rows: Tensor,
        keys: Tensor,
        grad_rows: Tensor,
        grad_keys: Tensor,
        grad_log: Float[Tensor, "M G J E"],
    ) -> None:
        """Add to the gradients of rows, keys and log decays the part that follows from ``grad``, the masked
        gradient of the products."""
        for level, row_log, key_log in self._levels():
            row_factor, key_factor = row_log.to(rows.dtype).exp(), key_log.to(keys.dtype).exp()
            square, late, early = level.squares(grad), level.rows(rows), level.keys(keys)
            of_rows = (square @ (early * key_factor)).mul_(row_factor)
            of_keys = (square.mT @ (late * row_factor)).mul_(key_factor)
            level.rows(grad_rows).add_(of_rows)
            level.keys(grad_keys).add_(of_keys)
            of_rows, of_keys = (
                self.part.on_pairs(dots(late, of_rows, self.channels)),
                dots(early, of_keys, self.channels),
            )
            if level.halves:
                level.rows(grad_log).add_(suffix_sums(of_rows))
                level.keys(grad_log).add_(prefix_sums(of_keys))
            else:
                level.keys(grad_log).add_(suffix_sums(of_rows - of_keys))
        if self.leaf == 1:
            self._add_gradients_inside(grad, rows, keys, grad_rows, grad_keys, grad_log)

    def _add_gradients_inside(
        self, grad: Tensor, rows: Tensor, keys: Tensor, grad_rows: Tensor, grad_keys: Tensor, grad_log: Tensor
    ) -> None:
        token = _Level(self.tokens)
        weights = token.squares(grad)[..., None] * self._inside_tokens(rows.dtype)
        of_rows = (weights * token.keys(keys)[..., None, :, :]).sum(-2)
        of_keys = (weights * token.rows(rows)[..., :, None, :]).sum(-3)
        token.rows(grad_rows).add_(of_rows)
        token.keys(grad_keys).add_(of_keys)
        if token.keys(keys).shape[3] > 1:
            of_rows = self.part.on_pairs(dots(token.rows(rows), of_rows, self.channels))
            token.keys(grad_log).add_(suffix_sums(of_rows - dots(token.keys(keys), of_keys, self.channels)))

    def _levels(self) -> Iterator[tuple[_Level, Tensor, Tensor]]:
        """Every level of more than one token, with the exponents of its rows and keys."""
        if self.leaf > 1:
            level = _Level(self.tokens // self.leaf)
            rows, keys = level.rows(self.log_rows), level.keys(self.log_keys)
            start = pad(keys[:, :, :-1, -1:], (0, 0, 0, 0, 1, 0))
            yield level, rows - start, start - keys
        size = self.leaf
        while size < self.tokens:
            level = _Level(self.tokens // (2 * size), halves=True)
            late, early = level.rows(self.log_rows), level.keys(self.log_keys)
            border = early[:, :, :, -1:]
            yield level, late - border, border - early
            size *= 2

    def _inside_tokens(self, dtype: torch.dtype) -> Float[Tensor, "M G C r n E"]:
        """e^{r - b} inside each token, between all its rows and pairs; 1 for later pairs, which must be
        masked."""
        token = _Level(self.tokens)
        between = token.rows(self.log_rows)[..., :, None, :] - token.keys(self.log_keys)[..., None, :, :]
        return between.clamp_(max=0.0).to(dtype).exp()


class _Level:
    """A chunk cut into blocks. With ``halves``, rows are those of the late half of a block and keys those of
    the early half. All methods return views."""

    def __init__(self, blocks: int, halves: bool = False) -> None:
        self.blocks, self.halves = blocks, halves

    def rows(self, x: Float[Tensor, "M G R D"]) -> Float[Tensor, "M G blocks r D"]:
        return (
            x.unflatten(2, (self.blocks, 2, -1))[:, :, :, 1]
            if self.halves
            else x.unflatten(2, (self.blocks, -1))
        )

    def keys(self, x: Float[Tensor, "M G J D"]) -> Float[Tensor, "M G blocks s D"]:
        return (
            x.unflatten(2, (self.blocks, 2, -1))[:, :, :, 0]
            if self.halves
            else x.unflatten(2, (self.blocks, -1))
        )

    def squares(self, scores: Float[Tensor, "M G R J"]) -> Float[Tensor, "M G blocks r s"]:
        square = (
            scores.unflatten(3, (self.blocks, -1))
            .unflatten(2, (self.blocks, -1))
            .diagonal(dim1=2, dim2=4)
            .movedim(-1, 2)
        )
        return square.unflatten(4, (2, -1)).unflatten(3, (2, -1))[:, :, :, 1, :, 0] if self.halves else square


def suffix_sums(x: Float[Tensor, "*lead N E"]) -> Float[Tensor, "*lead N E"]:
    """sum_{j>=i} x_j, as a matrix product: a reversed cumsum in torch copies twice."""
    return torch.ones(x.shape[-2], x.shape[-2], dtype=x.dtype, device=x.device).triu() @ x


def prefix_sums(x: Float[Tensor, "*lead N E"]) -> Float[Tensor, "*lead N E"]:
    """sum_{j<i} x_j."""
    return torch.ones(x.shape[-2], x.shape[-2], dtype=x.dtype, device=x.device).tril(-1) @ x
