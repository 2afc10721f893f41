"""Byte n-grams and the cache of the window, against their definitions written out."""

import collections

import pytest
import torch

from ttr.experiments.references import UNIGRAM, count, with_replaced_past
from ttr.laws.tolerances import FLOAT64
from ttr.tasks.ngrams import CACHE_ORDERS, ORDERS, NGrams, read_places, with_cache
from ttr.tasks.text import distant_slice, recall_slice
from ttr.tasks.tokens import WindowBytes


def drawn(seed: int, *shape: int) -> torch.Tensor:
    """Bytes of an alphabet of four, with much repetition."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(97, 101, shape, generator=generator, dtype=torch.uint8)


def grams_of(content: bytes, read: list[bool], order: int) -> collections.Counter:
    return collections.Counter(
        content[i : i + order] for i in range(len(content) - order + 1) if all(read[i : i + order])
    )


def kneser_ney(content: bytes, read: list[bool], context: bytes, order: int) -> list[float]:
    """Probabilities of all 256 bytes after a context, as Chen and Goodman define them, recursively."""

    def at(order: int, highest: bool) -> list[float]:
        if order == 0:
            return [1 / 256] * 256
        lower = at(order - 1, False)
        history = context[len(context) - order + 1 :] if order > 1 else b""
        if len(history) < order - 1:
            return lower
        counts = grams_of(content, read, order)
        if not highest:
            counts = collections.Counter(gram[1:] for gram in grams_of(content, read, order + 1))
        once, twice = (sum(count == n for count in counts.values()) for n in (1, 2))
        discount = min(max(once / max(once + 2 * twice, 1), 0.05), 0.95)
        here = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == history}
        total = sum(here.values())
        if total == 0:
            return lower
        share = discount * len(here) / total
        return [max(here.get(b, 0) - discount, 0) / total + share * p for b, p in enumerate(lower)]

    return at(order, True)


@pytest.mark.parametrize("order", ORDERS)
def test_ngrams_are_interpolated_kneser_ney(order):
    content, read = drawn(0, 300), torch.rand(300, generator=torch.Generator().manual_seed(1)) < 0.97
    grams, window = NGrams.fit(content, read), drawn(2, 1, 12).long()
    found = grams.probabilities(window)[order - 1, 0]
    row = bytes(window[0].tolist())
    for i in range(1, 12):
        expected = kneser_ney(bytes(content.tolist()), read.tolist(), row[:i], order)
        assert abs(sum(expected) - 1) < FLOAT64
        assert abs(found[i - 1].item() - expected[row[i]]) < FLOAT64


@pytest.mark.parametrize("least", [2, 4])
def test_the_cache_refines_by_longer_and_longer_contexts(least):
    windows = drawn(3, 2, 40).long()
    base = torch.full((2, 39), 1 / 256, dtype=torch.float64)
    found = with_cache(windows, base, least)
    for w, row in enumerate(windows.tolist()):
        for i in range(1, 40):
            p = 1 / 256
            for order in (m for m in CACHE_ORDERS if m >= least):
                follows = [
                    row[j] for j in range(order, i) if i >= order and row[j - order : j] == row[i - order : i]
                ]
                if follows:
                    p = (follows.count(row[i]) + len(set(follows)) * p) / (len(follows) + len(set(follows)))
            assert abs(found[w, i - 1].item() - p) < FLOAT64


def test_bytes_that_windows_read_are_counted_once():
    read = read_places(20, torch.tensor([2, 3, 10]), 4)
    assert read.nonzero()[:, 0].tolist() == [2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14]


def test_the_references_are_chosen_on_the_tuning_windows():
    """Text of period 7: every byte follows from the one before it, and a cache finds nothing to add."""
    content = torch.arange(4000).remainder(7).to(torch.uint8) + 97
    windows = torch.stack([content[i : i + 33] for i in (5, 17, 300)]).long()
    everything, length = torch.ones(4000, dtype=torch.bool), windows.shape[1]
    windows, replaced = (
        WindowBytes(rows, torch.arange(length).expand_as(rows).contiguous(), length)
        for rows in (windows, with_replaced_past(windows))
    )
    unigram, ngram, cached = count(content, everything, windows, windows, replaced, cache=True)
    assert unigram.name == UNIGRAM and ngram.name.endswith("-gram") and cached.name == f"{ngram.name} + cache"
    other = count(content, everything, windows, replaced, windows, cache=True)
    assert len(count(content, everything, windows, windows, replaced, cache=False)) == 2
    for here, there in zip((unigram, ngram, cached), other):
        assert torch.equal(here.replaced, there.bits) and torch.equal(here.bits, there.replaced)
    assert not torch.equal(ngram.bits, ngram.replaced)
    assert unigram.bits.mean() > 2.8 and ngram.bits.mean() < unigram.bits.mean() / 20


# ---------------------------------------------------------------------------------- the half that is replaced
def test_only_bytes_that_the_first_half_alone_repeats_are_distant():
    first, second = b"abcdXYefghij", b"QRabcdQQRabcd"
    window = torch.tensor([list(first + second)])
    mask, found = recall_slice(window, 4)[0], distant_slice(window, 4)[0]
    row = first + second
    looked_up = [row[i + 1 - 4 : i + 1] for i in range(len(row) - 1) if found[i]]
    assert looked_up == [b"abcd"]  # after the first abcd of the second half; the second one is near
    assert mask[found].all() and mask.sum() > found.sum()


def test_a_replaced_past_comes_from_another_window():
    windows = torch.arange(4 * 9).reshape(4, 9)
    replaced = with_replaced_past(windows)
    assert torch.equal(replaced[:, 4:], windows[:, 4:])
    assert torch.equal(replaced[:, :4], windows[[2, 3, 0, 1], :4])
