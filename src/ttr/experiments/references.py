"""What a comparison is held against: byte n-grams counted on exactly the bytes that the models read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from ttr.tasks.ngrams import ORDERS, NGrams, with_cache

UNIGRAM = "byte-unigram"
LEAST_LOOKED_UP = (3, 4, 5)
"""Bytes of context from which on the cache of the window is tried."""
TUNING_WINDOWS = 48


@dataclass(frozen=True)
class Reference:
    """Bits of every validation byte without training: of the windows as they are, and with their first half
    taken from another window."""

    name: str
    bits: Float[Tensor, "W T"]
    replaced: Float[Tensor, "W T"]


def count(
    content: UInt8[Tensor, " N"],
    read: Bool[Tensor, " N"],
    tuning: Int[Tensor, "U L"],
    validation: Int[Tensor, "W L"],
    replaced: Int[Tensor, "W L"],
    cache: bool,
) -> list[Reference]:
    """The byte frequencies, the best n-gram, and with ``cache`` the best n-gram with a cache of the window;
    the order, and the least context that the cache looks up, are those that are best on the tuning
    windows."""
    grams = NGrams.fit(content, read)
    tuning = tuning[:: max(1, len(tuning) // TUNING_WINDOWS)]
    tried = grams.probabilities(tuning)
    best = int(tried.log2().mean((1, 2)).argmax())
    rows = (validation, replaced)
    plain = [grams.probabilities(windows) for windows in rows]
    probabilities = {UNIGRAM: [p[0] for p in plain], f"{ORDERS[best]}-gram": [p[best] for p in plain]}
    if cache:
        looked_up = {m: with_cache(tuning, tried[best], m).log2().mean().item() for m in LEAST_LOOKED_UP}
        least = max(looked_up, key=looked_up.get)
        probabilities[f"{ORDERS[best]}-gram + cache"] = [
            with_cache(windows, p[best], least) for windows, p in zip(rows, plain)
        ]
    return [Reference(name, *(-p.log2().float() for p in each)) for name, each in probabilities.items()]


def with_replaced_past(windows: Int[Tensor, "W L"]) -> Int[Tensor, "W L"]:
    """The windows with their first half, of the bytes that are read, taken from the window half the set
    away."""
    half = (windows.shape[1] - 1) // 2
    other = windows.roll(max(1, len(windows) // 2), 0)
    return torch.cat([other[:, :half], windows[:, half:]], dim=1)
