"""Key-value records that are stated and later repeated in the same window: text with a known answer.

A memory that keeps the records predicts the value of a repeated one with certainty; whoever does not keep
them can do no better than guess among 26 letters. Multi-query associative recall (Arora et al., "Zoology",
arXiv 2312.04927) spelled out in bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

KEY_LETTERS, VALUE_LETTERS, FILLERS = (
    torch.tensor(list(b))
    for b in (b"abcdefghijklmnopqrstuvwxyz", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"0123456789")
)
"""Keys, values and fillers have no byte in common, so nothing but a key looks like a key."""

CHANCE_BITS = math.log2(len(VALUE_LETTERS))
"""Bits of a value's byte for whoever does not remember it; for an exact memory they are 0."""


@dataclass(frozen=True)
class RecordSettings:
    """A window, of ``context`` + 1 bytes: ``pairs`` records ``key=VALUE;`` with different keys, then
    ``distance`` bytes of filler, then the same records again and again, each time all of them in a new order,
    until the window is full.

    Harder are: more pairs; longer keys, which more of the bytes before a value decide; longer values; a
    greater distance.
    """

    pairs: int
    key_length: int = 2
    value_length: int = 1
    distance: int = 0
    context: int = 256

    def __post_init__(self) -> None:
        for name in ("pairs", "key_length", "value_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.distance < 0:
            raise ValueError(f"distance must not be negative, not {self.distance}.")
        if self.pairs > len(KEY_LETTERS) ** self.key_length:
            raise ValueError(
                f"There are only {len(KEY_LETTERS) ** self.key_length} keys of {self.key_length} letters for "
                f"{self.pairs} pairs. Use fewer pairs or a greater key_length."
            )
        needed = 2 * self.pairs * self.record_bytes + self.distance
        if needed > self.context + 1:
            raise ValueError(
                f"{self.pairs} pairs, stated and repeated, take {needed} bytes, more than the "
                f"{self.context + 1} of a window. Use fewer pairs or a greater context."
            )

    @property
    def record_bytes(self) -> int:
        """Bytes of a record: key, "=", value, ";"."""
        return self.key_length + 1 + self.value_length + 1


@dataclass(frozen=True)
class RecordWindows:
    """Windows of L bytes of records; all but the first byte of a window are predicted, T = L - 1.

    Attributes:
        windows: the bytes.
        stated: entry (w, i), about byte windows[w, i+1], says how often the record of this byte of a value
            was stated earlier in the window; -1 for all other bytes.
    """

    windows: Int[Tensor, "W L"]
    stated: Int[Tensor, "W T"]

    @property
    def repeated(self) -> Bool[Tensor, "W T"]:
        """The bytes of values that can be looked up."""
        return self.stated > 0


def records(settings: RecordSettings, count: int, seed: int) -> RecordWindows:
    """``count`` windows, determined by ``seed``: keys uniform without replacement, values uniform."""
    s = settings
    generator = torch.Generator().manual_seed(seed)
    keys = torch.rand(count, len(KEY_LETTERS) ** s.key_length, generator=generator).argsort(-1)[:, : s.pairs]
    digits = keys[..., None] // len(KEY_LETTERS) ** torch.arange(s.key_length) % len(KEY_LETTERS)
    values = torch.randint(len(VALUE_LETTERS), (count, s.pairs, s.value_length), generator=generator)
    signs = torch.tensor(list(b"=;")).expand(count, s.pairs, 2)
    record = torch.cat([KEY_LETTERS[digits], signs[..., :1], VALUE_LETTERS[values], signs[..., 1:]], dim=-1)

    room = s.context + 1 - s.distance
    blocks = -(-room // (s.pairs * s.record_bytes))
    order = torch.rand(count, blocks, s.pairs, generator=generator).argsort(-1).flatten(1)
    text = record.gather(1, order[..., None].expand(-1, -1, s.record_bytes)).flatten(1)[:, :room]
    fillers = FILLERS[torch.randint(len(FILLERS), (count, s.distance), generator=generator)]

    of_value = torch.zeros(s.record_bytes, dtype=torch.bool)
    of_value[s.key_length + 1 : -1] = True
    times = torch.arange(blocks).repeat_interleave(s.pairs * s.record_bytes)[:room]
    stated = torch.where(of_value.repeat(blocks * s.pairs)[:room], times, -1)
    first = s.pairs * s.record_bytes
    windows = torch.cat([text[:, :first], fillers, text[:, first:]], dim=1)
    stated = torch.cat([stated[:first], torch.full((s.distance,), -1), stated[first:]])
    return RecordWindows(windows, stated[1:].expand(count, -1))
