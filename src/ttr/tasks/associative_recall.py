"""Multi-query associative recall: keys with their values, then keys whose values are asked for (Arora et al.,
"Zoology", arXiv 2312.04927; layouts as in HazyResearch/zoology, zoology/data at d88d6f5).

Tokens are numbers: 0 is the blank, keys are 1 to V/2 - 1, values V/2 to V - 1. A sequence begins with the
pairs, key value key value; then come queries at random places, each a key of the sequence, earlier places
being a little more frequent. An exact memory answers all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from ttr.tasks.task import UNLABELLED, LabelledSequences, Task, without_replacement


@dataclass(frozen=True)
class AssociativeRecall(Task):
    """
    Attributes:
        vocabulary: V, the number of tokens.
        length: tokens of a sequence.
        pairs: keys in a sequence, each asked for once.
        updates: so many of the keys are stated a second time, after all the others, with a new value, which
            is the one that is asked for ("forgetting" associative recall).
        power: the chance of a place for a query falls as its number to the power of ``power`` - 1.
        fillers: between the queries: "disjoint", drawn from all tokens but the blank and the sequence's keys;
            "any", from all but the blank, as originally, so that a key can seem to be asked for without a
            label; "blank".

    Raises:
        ValueError: if the sequences are impossible.
    """

    name = "associative-recall"

    vocabulary: int = 256
    length: int = 64
    pairs: int = 8
    updates: int = 0
    power: float = 0.01
    fillers: str = "disjoint"

    def __post_init__(self) -> None:
        least = 4 * self.pairs + 2 * self.updates
        if self.length % 2 or least > self.length or self.pairs < 1:
            raise ValueError(
                f"{self.pairs} pairs and their queries need an even length of at least {least}, not "
                f"{self.length}."
            )
        if self.pairs >= self.vocabulary // 2 - 1:
            raise ValueError(
                f"A vocabulary of {self.vocabulary} has {self.vocabulary // 2 - 1} keys, too few for "
                f"{self.pairs} pairs with another key to spare. Use a larger vocabulary."
            )
        if not 0 <= self.updates <= self.pairs:
            raise ValueError(f"{self.updates} updates are not from 0 to the {self.pairs} pairs.")
        if self.pairs + self.updates > self.vocabulary - self.vocabulary // 2:
            raise ValueError(f"A vocabulary of {self.vocabulary} has too few values. Use a larger one.")
        if self.fillers not in ("disjoint", "any", "blank"):
            raise ValueError(f'fillers are "disjoint", "any" or "blank", not {self.fillers!r}.')

    @property
    def channels(self) -> int:
        return self.vocabulary

    def draw(self, count: int, seed: int) -> LabelledSequences:
        s, generator = self, torch.Generator().manual_seed(seed)
        half = s.vocabulary // 2
        keys = 1 + without_replacement(torch.ones(count, half - 1), generator)
        values = half + without_replacement(torch.ones(count, s.vocabulary - half), generator)
        keys, others = keys[:, : s.pairs], keys[:, s.pairs :]
        values, renewed = values[:, : s.pairs], values[:, s.pairs : s.pairs + s.updates]
        stated = 2 * (s.pairs + s.updates)
        slots = (s.length - stated) // 2
        chances = torch.arange(1, slots + 1, dtype=torch.float64) ** (s.power - 1)
        places = stated + 2 * without_replacement(chances.expand(count, -1), generator)[:, : s.pairs]
        tokens = _fillers(s, others, count, generator)
        tokens[:, : 2 * s.pairs] = torch.stack([keys, values], dim=-1).flatten(1)
        # keys stand in a random order, so that the first of them are a random choice
        tokens[:, 2 * s.pairs : stated] = torch.stack([keys[:, : s.updates], renewed], dim=-1).flatten(1)
        values = torch.cat([renewed, values[:, s.updates :]], dim=1)
        tokens.scatter_(1, places, keys)
        labels = torch.full_like(tokens, UNLABELLED).scatter_(1, places, values)
        return LabelledSequences(tokens, labels)

    def exact(self, inputs: Int[Tensor, "N L"]) -> Int[Tensor, "N L"]:
        """The last value that was stated for the key."""
        stated = 2 * (self.pairs + self.updates)
        return _looked_up(inputs, inputs[:, 0:stated:2], inputs[:, 1:stated:2])


def _fillers(
    settings: AssociativeRecall, others: Int[Tensor, "N K"], count: int, generator: torch.Generator
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


def _looked_up(
    asked: Int[Tensor, "N L"], keys: Int[Tensor, "N P"], values: Int[Tensor, "N P"]
) -> Int[Tensor, "N L"]:
    """The value of the last of the keys that is the one asked for."""
    same = asked[:, :, None] == keys[:, None]
    last = torch.where(same, torch.arange(keys.shape[1]), -1).amax(-1)
    return torch.where(last < 0, UNLABELLED, values.gather(1, last.clamp(min=0)))


@dataclass(frozen=True)
class CompositionalRecall(Task):
    """Keys of two tokens, neither of which decides the value alone: the ``side`` x ``side`` pairs of a grid
    of first and second tokens, in a random order, each with a value of its own. A query is both tokens.

    Attributes:
        vocabulary: V: first tokens are 1 to V/3 - 1, second ones V/3 to 2V/3 - 1, values the rest.
        length: tokens of a sequence.
        side: of the grid.
        power: of the places of the queries, as in ``AssociativeRecall``. Fillers are values, which are no
            part of a key.

    Raises:
        ValueError: if the sequences are impossible.
    """

    name = "compositional-recall"

    vocabulary: int = 192
    length: int = 64
    side: int = 3
    power: float = 0.01

    def __post_init__(self) -> None:
        if 6 * self.side**2 > self.length or self.side < 2:
            raise ValueError(
                f"A grid of side {self.side} (2 or more) needs a length of at least {6 * self.side**2}, not "
                f"{self.length}."
            )
        if self.side**2 > self.vocabulary // 3 - 1:
            raise ValueError(
                f"A third of the vocabulary, {self.vocabulary // 3}, is too small for {self.side**2} pairs."
            )

    @property
    def channels(self) -> int:
        return self.vocabulary

    def draw(self, count: int, seed: int) -> LabelledSequences:
        generator, third, pairs = torch.Generator().manual_seed(seed), self.vocabulary // 3, self.side**2

        def some(first: int, end: int, number: int) -> Int[Tensor, "N number"]:
            return first + without_replacement(torch.ones(count, end - first), generator)[:, :number]

        grid = torch.cartesian_prod(torch.arange(self.side), torch.arange(self.side))
        grid = grid[without_replacement(torch.ones(count, pairs), generator)]
        first = some(1, third, self.side).gather(1, grid[..., 0])
        second = some(third, 2 * third, self.side).gather(1, grid[..., 1])
        values = some(2 * third, self.vocabulary, pairs)
        tokens = torch.randint(2 * third, self.vocabulary, (count, self.length), generator=generator)
        tokens[:, : 3 * pairs] = torch.stack([first, second, values], dim=-1).flatten(1)
        slots = (self.length - 3 * pairs) // 3
        chances = torch.arange(1, slots + 1, dtype=torch.float64) ** (self.power - 1)
        places = 3 * pairs + 3 * without_replacement(chances.expand(count, -1), generator)[:, :pairs]
        tokens.scatter_(1, places, first).scatter_(1, places + 1, second)
        labels = torch.full_like(tokens, UNLABELLED).scatter_(1, places + 1, values)
        return LabelledSequences(tokens, labels)

    def exact(self, inputs: Int[Tensor, "N L"]) -> Int[Tensor, "N L"]:
        """The value of the key that the last two tokens are."""
        parts = inputs[:, : 3 * self.side**2].unflatten(1, (-1, 3))
        before = torch.nn.functional.pad(inputs, (1, 0))[:, :-1]
        names = before * self.vocabulary + inputs
        return _looked_up(names, parts[..., 0] * self.vocabulary + parts[..., 1], parts[..., 2])


@dataclass(frozen=True)
class StackedRecall(Task):
    """A token holds a key and its value side by side, so that no convolution is needed to bring them
    together; a query has zeros for its value. Keys and values are unit vectors of a fixed random vocabulary,
    and the answer is the number of a value.

    Attributes:
        vocabulary: keys, and as many values.
        size: channels of a key and of a value.
        pairs: pairs in a sequence, each asked for once, in another order.
        passes: how often the pairs are stated.

    Raises:
        ValueError: if there are more pairs than keys.
    """

    name = "stacked-recall"
    reads_vectors = True

    vocabulary: int = 128
    size: int = 32
    pairs: int = 16
    passes: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.pairs <= self.vocabulary:
            raise ValueError(f"{self.pairs} pairs need as many keys, not {self.vocabulary}.")

    @property
    def channels(self) -> int:
        return 2 * self.size

    @property
    def outputs(self) -> int:
        return self.vocabulary

    @property
    def embeddings(self) -> Float[Tensor, "2 vocabulary size"]:
        """Of the keys and of the values, the same for all seeds."""
        generator = torch.Generator().manual_seed(0)
        return normalize(torch.randn(2, self.vocabulary, self.size, generator=generator), dim=-1)

    def draw(self, count: int, seed: int) -> LabelledSequences:
        generator = torch.Generator().manual_seed(seed)
        keys, values = (self._some(count, generator) for _ in range(2))
        key, value = self.embeddings
        orders = [self._order(count, generator) for _ in range(self.passes + 1)]
        stated = [
            torch.cat([key[keys.gather(1, order)], value[values.gather(1, order)]], dim=-1)
            for order in orders[:-1]
        ]
        queries = key[keys.gather(1, orders[-1])]
        inputs = torch.cat([*stated, torch.cat([queries, torch.zeros_like(queries)], dim=-1)], dim=1)
        labels = torch.full(inputs.shape[:2], UNLABELLED)
        labels[:, self.passes * self.pairs :] = values.gather(1, orders[-1])
        return LabelledSequences(inputs, labels)

    def _some(self, count: int, generator: torch.Generator) -> Int[Tensor, "N pairs"]:
        return without_replacement(torch.ones(count, self.vocabulary), generator)[:, : self.pairs]

    def _order(self, count: int, generator: torch.Generator) -> Int[Tensor, "N pairs"]:
        return without_replacement(torch.ones(count, self.pairs), generator)

    def exact(self, inputs: Float[Tensor, "N L C"]) -> Int[Tensor, "N L"]:
        """The value that stands beside the nearest of the keys."""
        value = _value_of_nearest(inputs, self.passes * self.pairs)
        return (value @ self.embeddings[1].mT).argmax(-1)


def _value_of_nearest(inputs: Float[Tensor, "N L C"], stated: int) -> Float[Tensor, "N L V"]:
    keys, values = inputs.chunk(2, dim=-1)
    nearest = (keys @ keys[:, :stated].mT).argmax(-1)
    return values.gather(1, nearest[..., None].expand(-1, -1, values.shape[-1]))


@dataclass(frozen=True)
class ContinuousRecall(Task):
    """As ``StackedRecall``, without a vocabulary: keys and values are random unit vectors, new in every
    sequence, and a value is to be given back as a vector. An answer is right if it is nearer to its value
    than to all others of the sequence.

    Attributes:
        size: channels of a key and of a value.
        pairs: pairs in a sequence, each asked for once, in another order.
    """

    name = "continuous-recall"
    reads_vectors = True

    size: int = 32
    pairs: int = 16

    @property
    def channels(self) -> int:
        return 2 * self.size

    @property
    def outputs(self) -> int:
        return self.size

    def draw(self, count: int, seed: int) -> LabelledSequences:
        generator = torch.Generator().manual_seed(seed)
        stated = normalize(torch.randn(count, self.pairs, 2, self.size, generator=generator), dim=-1)
        order = without_replacement(torch.ones(count, self.pairs), generator)
        asked = stated.gather(1, order[..., None, None].expand_as(stated))
        blank = torch.zeros(count, self.pairs, self.size)
        queries = torch.cat([asked[:, :, 0], blank], dim=-1)
        labels = torch.cat([blank * torch.nan, asked[:, :, 1]], dim=1)
        return LabelledSequences(torch.cat([stated.flatten(2), queries], dim=1), labels)

    def exact(self, inputs: Float[Tensor, "N L C"]) -> Float[Tensor, "N L V"]:
        """The value that stands beside the nearest of the keys."""
        return _value_of_nearest(inputs, self.pairs)

    def ceiling(self, count: int, seed: int) -> float:
        sequences = self.draw(count, seed)
        return self.score(self.exact(sequences.inputs)[sequences.asked], sequences)

    def score(self, said: Float[Tensor, "asked V"], sequences: LabelledSequences) -> float:
        values, answers = (
            x.view(-1, self.pairs, self.size) for x in (sequences.labels[sequences.asked], said)
        )
        nearest = torch.cdist(answers, values).argmin(-1)
        return (nearest == torch.arange(self.pairs)).double().mean().item()
