"""The six tasks of mechanistic architecture design (Poli et al., "Mechanistic design and scaling of hybrid
architectures", arXiv 2403.17844; settings as in athms/mad-lab at 0f49a45).

In the original, models are trained on every next token of the recall tasks and judged on the values that can
be known; here they are trained on those as well. Where the original draws from a random state that its seed
does not fix, here everything follows from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ttr.tasks.task import UNLABELLED, LabelledSequences, Task


@dataclass(frozen=True)
class InContextRecall(Task):
    """Keys and values in turn, key value key value; a key that comes again has the same value, which is asked
    for. In the noisy form some pairs are two tokens of noise instead.

    Attributes:
        vocabulary: half of it are keys, half are values.
        length: tokens of a sequence, even.
        noise: the share of pairs that are noise.
        noise_vocabulary: tokens of noise, which are added to the vocabulary.

    Raises:
        ValueError: if there is noise without tokens for it, or the length is odd.
    """

    name = "in-context-recall"

    vocabulary: int = 16
    length: int = 128
    noise: float = 0.0
    noise_vocabulary: int = 0

    def __post_init__(self) -> None:
        if self.length % 2:
            raise ValueError(f"Keys and values in turn need an even length, not {self.length}.")
        if self.noise and not self.noise_vocabulary:
            raise ValueError("Noise needs tokens. Give a noise_vocabulary, or no noise.")

    @property
    def channels(self) -> int:
        return self.vocabulary + self.noise_vocabulary

    def draw(self, count: int, seed: int) -> LabelledSequences:
        generator, half, pairs = torch.Generator().manual_seed(seed), self.vocabulary // 2, self.length // 2
        keys = torch.randint(half, (count, pairs), generator=generator)
        table = torch.randint(half, self.vocabulary, (count, half), generator=generator)
        tokens = torch.stack([keys, table.gather(1, keys)], dim=-1)
        if self.noise:
            noisy = torch.rand(count, pairs, generator=generator) < self.noise
            drawn = torch.randint(self.vocabulary, self.channels, tokens.shape, generator=generator)
            tokens = torch.where(noisy[..., None], drawn, tokens)
        tokens = tokens.flatten(1)
        return LabelledSequences(tokens, self.exact(tokens))

    def exact(self, inputs: Int[Tensor, "N L"]) -> Int[Tensor, "N L"]:
        """The value that stood behind the same key before."""
        keys, values = inputs[:, 0::2], inputs[:, 1::2]
        same = (keys[:, :, None] == keys[:, None]).tril(-1) & (keys < self.vocabulary)[:, :, None]
        first = same.int().argmax(-1)
        found = torch.full_like(inputs, UNLABELLED)
        found[:, 0::2] = torch.where(same.any(-1), values.gather(1, first), UNLABELLED)
        return found


@dataclass(frozen=True)
class FuzzyRecall(Task):
    """As in-context recall, with keys of ``key_tokens`` and values of 1 to ``value_tokens`` different tokens;
    the sequence begins with padding, and its last key is one that came before.

    Attributes:
        vocabulary: one token is padding, half of the others are of keys, half of values.
        length: tokens of a sequence.
        key_tokens: of every key. In the original they are fewer in some of the training.
        value_tokens: at most.

    Raises:
        ValueError: if the sequence is too short for two pairs.
    """

    name = "fuzzy-recall"

    vocabulary: int = 16
    length: int = 128
    key_tokens: int = 3
    value_tokens: int = 3

    def __post_init__(self) -> None:
        least = 2 * (self.key_tokens + self.value_tokens)
        if self.length < least:
            raise ValueError(f"Two pairs need a length of at least {least}, not {self.length}.")

    @property
    def channels(self) -> int:
        return self.vocabulary

    def draw(self, count: int, seed: int) -> LabelledSequences:
        generator = torch.Generator().manual_seed(seed)
        rows = [self._one(generator) for _ in range(count)]
        inputs, labels = (torch.tensor(part) for part in zip(*rows))
        return LabelledSequences(inputs, labels)

    def _one(self, generator: torch.Generator) -> tuple[list[int], list[int]]:
        """The tokens of a sequence, and the labels: the tokens of a value whose key came before."""

        def some(first: int, end: int, number: int) -> tuple[int, ...]:
            return tuple((first + torch.randperm(end - first, generator=generator)[:number]).tolist())

        half, longest = (self.vocabulary - 1) // 2, self.key_tokens + self.value_tokens
        found: dict[tuple[int, ...], tuple[int, ...]] = {}
        tokens: list[int] = []
        asked: list[bool] = []
        last = False
        while not last:
            last = len(tokens) > self.length + 1 - 2 * longest
            key = some(0, half, self.key_tokens)
            if last:
                key = list(found)[int(torch.randint(len(found), (), generator=generator))]
            size = int(torch.randint(1, self.value_tokens + 1, (), generator=generator))
            known = key in found
            value = found.setdefault(key, some(half, 2 * half, size))
            tokens += [*key, *value]
            asked += [False] * len(key) + [known] * len(value)
        padding = self.length + 1 - len(tokens)
        tokens, asked = [self.channels - 1] * padding + tokens, [False] * padding + asked
        return tokens[:-1], [t if a else UNLABELLED for t, a in zip(tokens[1:], asked[1:], strict=True)]

    def exact(self, inputs: Int[Tensor, "N L"]) -> Int[Tensor, "N L"]:
        """What followed the same key, and so far the same value, before."""
        half = (self.vocabulary - 1) // 2
        said = torch.full_like(inputs, UNLABELLED)
        for row, answers in zip(inputs.tolist(), said, strict=True):
            found: dict[tuple[int, ...], list[int]] = {}
            for start, end in _pairs(row, half):
                key = tuple(row[start : start + self.key_tokens])
                value = row[start + self.key_tokens : end]
                known = found.setdefault(key, value)
                if known is not value:
                    first = start + self.key_tokens - 1
                    places = range(first, min(first + len(known), len(row)))
                    answers[places.start : places.stop] = torch.tensor(known[: len(places)])
        return said


def _pairs(row: list[int], half: int) -> list[tuple[int, int]]:
    """Where the pairs of a sequence begin and end: a key's token behind one that is none begins the next."""
    starts = [i for i, t in enumerate(row) if t < half and (i == 0 or row[i - 1] >= half)]
    return list(zip(starts, [*starts[1:], len(row)]))


@dataclass(frozen=True)
class SelectiveCopying(Task):
    """Tokens with blanks between them at random places, then a sign, after which the tokens are to be said in
    their order while blanks are read.

    Attributes:
        vocabulary: two of the tokens are the blank and the sign.
        length: tokens of a sequence.
        copied: how many are to be copied.

    Raises:
        ValueError: if the sequence is too short.
    """

    name = "selective-copying"

    vocabulary: int = 16
    length: int = 256
    copied: int = 16

    def __post_init__(self) -> None:
        if self.length <= 2 * self.copied + 1:
            raise ValueError(f"{self.copied} tokens need a length of at least {2 * self.copied + 2}.")

    @property
    def channels(self) -> int:
        return self.vocabulary

    def draw(self, count: int, seed: int) -> LabelledSequences:
        generator = torch.Generator().manual_seed(seed)
        sign, blank, before = self.vocabulary - 1, self.vocabulary - 2, self.length - self.copied - 1
        copied = torch.randint(blank, (count, self.copied), generator=generator)
        places = torch.rand(count, before, generator=generator).argsort(-1)[:, : self.copied].sort(-1).values
        inputs = torch.full((count, self.length), blank)
        inputs.scatter_(1, places, copied)
        inputs[:, before] = sign
        labels = torch.full_like(inputs, UNLABELLED)
        labels[:, before + 1 :] = copied
        return LabelledSequences(inputs, labels)

    def exact(self, inputs: Int[Tensor, "N L"]) -> Int[Tensor, "N L"]:
        """The tokens that are neither blank nor sign."""
        found = torch.full_like(inputs, UNLABELLED)
        found[:, -self.copied :] = inputs[inputs < self.vocabulary - 2].view(len(inputs), -1)
        return found


@dataclass(frozen=True)
class Compression(Task):
    """Random tokens and a sign, from whose output alone all of them are to be decoded.

    Attributes:
        vocabulary: one of the tokens is the sign.
        length: tokens of a sequence, the sign included.
    """

    name = "compression"

    vocabulary: int = 16
    length: int = 32

    @property
    def channels(self) -> int:
        return self.vocabulary

    @property
    def decoded(self) -> int:
        return self.length

    def draw(self, count: int, seed: int) -> LabelledSequences:
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randint(self.vocabulary - 1, (count, self.length), generator=generator)
        inputs[:, -1] = self.vocabulary - 1
        labels = inputs.clone()
        labels[:, -1] = UNLABELLED
        return LabelledSequences(inputs, labels)

    def exact(self, inputs: Int[Tensor, "N L"]) -> Int[Tensor, "N L"]:
        """The tokens themselves."""
        return inputs


@dataclass(frozen=True)
class Memorisation(Task):
    """Keys, each followed by a sign at which its value is to be said: values that no sequence states and that
    are the same in all of them, to be stored in the parameters.

    Attributes:
        vocabulary: one of the tokens is the sign, half of the others are keys, half are values.
        length: tokens of a sequence, even.

    Raises:
        ValueError: if the length is odd.
    """

    name = "memorisation"

    vocabulary: int = 256
    length: int = 32

    def __post_init__(self) -> None:
        if self.length % 2:
            raise ValueError(f"Keys and signs in turn need an even length, not {self.length}.")

    @property
    def channels(self) -> int:
        return self.vocabulary

    @property
    def table(self) -> Int[Tensor, " keys"]:
        """The value of every key, the same for all seeds; no two keys share one."""
        half = (self.vocabulary - 1) // 2
        return half + torch.randperm(half, generator=torch.Generator().manual_seed(0))

    def draw(self, count: int, seed: int) -> LabelledSequences:
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.full((count, self.length), self.vocabulary - 1)
        inputs[:, 0::2] = torch.randint(len(self.table), (count, self.length // 2), generator=generator)
        return LabelledSequences(inputs, self.exact(inputs))

    def exact(self, inputs: Int[Tensor, "N L"]) -> Int[Tensor, "N L"]:
        """The value of the key before the sign, which a memory of all sequences knows."""
        found = torch.full_like(inputs, UNLABELLED)
        found[:, 1::2] = self.table[inputs[:, 0::2]]
        return found
