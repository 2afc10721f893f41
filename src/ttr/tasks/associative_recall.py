"""Multi-query associative recall: keys with their values, then keys whose values are asked for (Arora et al.,
"Zoology", arXiv 2312.04927; layout as in HazyResearch/zoology, data/multiquery_ar.py at d88d6f5).

Tokens are numbers: 0 is the blank, keys are 1 to V/2 - 1, values V/2 to V - 1. A sequence begins with the
pairs, key value key value; then come queries at random places, each a key of the sequence, earlier places
being a little more frequent. An exact memory answers all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

UNLABELLED = -100
"""The label of tokens that are not to be predicted, which torch's cross-entropy leaves out."""


@dataclass(frozen=True)
class RecallSettings:
    """
    Attributes:
        vocabulary: V, the number of tokens.
        length: tokens of a sequence.
        pairs: pairs in a sequence, each asked for once.
        power: the chance of a place for a query falls as its number to the power of ``power`` - 1.
        fillers: between the queries: "disjoint", drawn from all tokens but the blank and the sequence's keys;
            "any", from all but the blank, as originally, so that a key can seem to be asked for without a
            label; "blank".

    Raises:
        ValueError: if the sequences are impossible.
    """

    vocabulary: int = 256
    length: int = 64
    pairs: int = 8
    power: float = 0.01
    fillers: str = "disjoint"

    def __post_init__(self) -> None:
        if self.length % 2 or 4 * self.pairs > self.length or self.pairs < 1:
            raise ValueError(
                f"{self.pairs} pairs and their queries need an even length of at least {4 * self.pairs}, not "
                f"{self.length}."
            )
        if self.pairs >= self.vocabulary // 2 - 1:
            raise ValueError(
                f"A vocabulary of {self.vocabulary} has {self.vocabulary // 2 - 1} keys, too few for "
                f"{self.pairs} pairs with another key to spare. Use a larger vocabulary."
            )
        if self.fillers not in ("disjoint", "any", "blank"):
            raise ValueError(f'fillers are "disjoint", "any" or "blank", not {self.fillers!r}.')


class LabelledSequences(NamedTuple):
    """Tokens, and what is to be said at each of them, ``UNLABELLED`` where nothing is asked."""

    tokens: Int[Tensor, "N L"]
    labels: Int[Tensor, "N L"]


def associative_recall(settings: RecallSettings, count: int, seed: int) -> LabelledSequences:
    """``count`` sequences, determined by ``seed``."""
    s, generator = settings, torch.Generator().manual_seed(seed)
    half = s.vocabulary // 2
    keys = 1 + _without_replacement(torch.ones(count, half - 1), generator)
    values = half + _without_replacement(torch.ones(count, s.vocabulary - half), generator)
    keys, others, values = keys[:, : s.pairs], keys[:, s.pairs :], values[:, : s.pairs]
    stated = 2 * s.pairs
    slots = (s.length - stated) // 2
    chances = torch.arange(1, slots + 1, dtype=torch.float64) ** (s.power - 1)
    places = stated + 2 * _without_replacement(chances.expand(count, -1), generator)[:, : s.pairs]
    tokens = _fillers(s, others, count, generator)
    tokens[:, :stated] = torch.stack([keys, values], dim=-1).flatten(1)
    tokens.scatter_(1, places, keys)
    labels = torch.full_like(tokens, UNLABELLED).scatter_(1, places, values)
    return LabelledSequences(tokens, labels)


def _without_replacement(chances: Tensor, generator: torch.Generator) -> Int[Tensor, "N items"]:
    """All items in a random order, each place drawn from those that are left by their chances (the order of
    exponential waiting times)."""
    waits = -torch.rand(chances.shape, generator=generator, dtype=torch.float64).log() / chances
    return waits.argsort(-1)


def _fillers(
    settings: RecallSettings, others: Int[Tensor, "N K"], count: int, generator: torch.Generator
) -> Int[Tensor, "N L"]:
    s = settings
    if s.fillers == "blank":
        return torch.zeros(count, s.length, dtype=torch.long)
    drawn = torch.randint(1, s.vocabulary, (count, s.length), generator=generator)
    if s.fillers == "any":
        return drawn
    # a key of the sequence is replaced by one of the keys that it does not have, a value stays
    other = others.gather(1, torch.randint(others.shape[1], drawn.shape, generator=generator))
    return torch.where(drawn < s.vocabulary // 2, other, drawn)
