"""What can be predicted of a text by counting alone: byte n-grams, with and without a cache of the window.

A trained model that stays behind them has not learned to use its context, whatever its memory could do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

ORDERS = (1, 2, 3, 4, 5, 6)
"""Lengths of the n-grams; an int64 holds seven bytes."""

CACHE_ORDERS = (2, 3, 4, 5, 6)
"""Bytes of context that the cache looks up in the window."""


@dataclass(frozen=True)
class _Counts:
    """The n-grams of one order that occur: their codes, sorted, how often each occurs, and of each of their
    contexts the sum of the counts and the number of different bytes that follow it."""

    codes: Int[Tensor, " G"]
    counts: Int[Tensor, " G"]
    contexts: Int[Tensor, " C"]
    totals: Int[Tensor, " C"]
    distinct: Int[Tensor, " C"]

    @staticmethod
    def of(codes: Int[Tensor, " G"], counts: Int[Tensor, " G"]) -> _Counts:
        contexts, place = (codes // 256).unique_consecutive(return_inverse=True)
        zeros = torch.zeros_like(contexts)
        return _Counts(
            codes,
            counts,
            contexts,
            zeros.scatter_add(0, place, counts),
            zeros.scatter_add(0, place, torch.ones_like(counts)),
        )

    @property
    def discount(self) -> float:
        """n1 / (n1 + 2 n2), by the numbers of n-grams that occur once and twice."""
        once, twice = (float((self.counts == times).sum()) for times in (1, 2))
        return min(max(once / max(once + 2 * twice, 1.0), 0.05), 0.95)

    def probability(
        self, codes: Int[Tensor, "*shape"], lower: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """max(c - D, 0) / C + D T / C times the probability of the lower order, or that alone after a context
        that does not occur."""
        count = _look_up(self.codes, self.counts, codes)
        total = _look_up(self.contexts, self.totals, codes // 256)
        distinct = _look_up(self.contexts, self.distinct, codes // 256)
        above = (count - self.discount).clamp(min=0.0) + self.discount * distinct * lower
        return torch.where(total > 0, above / total.clamp(min=1.0), lower)


def _look_up(
    keys: Int[Tensor, " N"], values: Int[Tensor, " N"], wanted: Int[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """The values of the wanted keys, 0 of those that are not there."""
    if not len(keys):
        return torch.zeros(wanted.shape, dtype=torch.float64)
    at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[at] == wanted, values[at], 0).double()


@dataclass(frozen=True)
class NGrams:
    """Interpolated Kneser-Ney models of all ``ORDERS`` (Chen, Goodman, "An empirical study of smoothing
    techniques for language modeling", 1999): the highest order counts how often an n-gram occurs, the lower
    ones how many different bytes come before it."""

    occurrences: tuple[_Counts, ...]
    continuations: tuple[_Counts, ...]

    @staticmethod
    def fit(content: UInt8[Tensor, " N"], read: Bool[Tensor, " N"]) -> NGrams:
        """Counts of the n-grams that lie within the bytes marked as ``read``, each place counted once."""
        grams = []
        for order in ORDERS:
            inside = read.unfold(0, order, 1).all(-1) if len(read) >= order else read[:0]
            codes = _codes(content.long()[None], order)[0][inside]
            grams.append(codes.unique(return_counts=True))
        continuations = [
            (longer % 256**order).unique(return_counts=True) for order, (longer, _) in zip(ORDERS, grams[1:])
        ]
        return NGrams(
            tuple(_Counts.of(*found) for found in grams), tuple(_Counts.of(*found) for found in continuations)
        )

    def probabilities(self, windows: Int[Tensor, "W L"]) -> Float[Tensor, "N W L-1"]:
        """Of every byte but the first, from the window's earlier bytes, for each of the N orders."""
        lower = torch.full((windows.shape[0], windows.shape[1] - 1), 1 / 256, dtype=torch.float64)
        found = []
        for order, counts in zip(ORDERS, self.occurrences):
            found.append(_refined(counts, windows, order, lower))
            if order <= len(self.continuations):
                lower = _refined(self.continuations[order - 1], windows, order, lower)
        return torch.stack(found)


def _refined(counts: _Counts, windows: Tensor, order: int, lower: Tensor) -> Tensor:
    """The probabilities of one order where a window has enough bytes before, and ``lower`` elsewhere."""
    skipped = max(order - 2, 0)  # predicted bytes, from the second on, with fewer than order - 1 before them
    if windows.shape[1] - 1 <= skipped:
        return lower
    codes = _codes(windows, order)[:, 1 if order == 1 else 0 :].contiguous()
    return torch.cat([lower[:, :skipped], counts.probability(codes, lower[:, skipped:])], dim=1)


def _codes(rows: Int[Tensor, "W L"], order: int) -> Int[Tensor, "W places"]:
    """The n-grams of every row as numbers, the last byte in the lowest digit."""
    if rows.shape[1] < order:
        return rows[:, :0]
    return (rows.unfold(1, order, 1) * 256 ** torch.arange(order - 1, -1, -1)).sum(-1)


def with_cache(
    windows: Int[Tensor, "W L"], base: Float[Tensor, "W L-1"], least: int
) -> Float[Tensor, "W L-1"]:
    """The probabilities of a model mixed with what followed the same bytes earlier in the window.

    For m = ``least``, ..., 6 bytes of context in turn p <- (c + T p) / (C + T), where C is how often these m
    bytes occurred earlier in the window, c how often with this byte after them and T with how many different
    ones (Witten, Bell, 1991; the longest context has the last word, as in prediction by partial matching)."""
    part = max(1, 2**21 // windows.shape[1] ** 2)  # windows at a time, for a bounded memory
    return torch.cat([_cached(rows, p, least) for rows, p in zip(windows.split(part), base.split(part))])


def _cached(windows: Tensor, base: Tensor, least: int) -> Tensor:
    count, length = windows.shape
    # alike[w, i, j]: how many bytes before i and before j are the same; j < i are earlier places
    alike = torch.zeros(count, length, length, dtype=torch.int16)
    equal = windows[:, :, None] == windows[:, None, :]
    for i in range(1, length):
        alike[:, i, 1:] = torch.where(equal[:, i - 1, :-1], alike[:, i - 1, :-1] + 1, 0)
    earlier = torch.ones(length, length, dtype=torch.bool).tril(-1)
    earlier[:, 0] = False  # nothing comes before the first byte
    p = base
    for order in (m for m in CACHE_ORDERS if m >= least):
        seen = (alike >= order) & earlier
        follows = torch.zeros(count, length, 256)
        follows.scatter_add_(2, windows[:, None].expand(-1, length, -1), seen.float())
        own = follows.gather(2, windows[..., None])[..., 0][:, 1:].double()
        total, distinct = follows.sum(-1)[:, 1:].double(), (follows > 0).sum(-1)[:, 1:].double()
        p = torch.where(total > 0, (own + distinct * p) / (total + distinct).clamp(min=1.0), p)
    return p


def read_places(length: int, starts: Int[Tensor, " windows"], context: int) -> Bool[Tensor, " N"]:
    """Which of ``length`` tokens lie in windows of ``context`` + 1 tokens that begin at ``starts``."""
    change = torch.zeros(length + 1, dtype=torch.int64)
    change.index_add_(0, starts, torch.ones_like(starts))
    change.index_add_(0, starts + context + 1, -torch.ones_like(starts))
    return change.cumsum(0)[:-1] > 0
