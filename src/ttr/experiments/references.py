"""What a comparison is held against: byte n-grams counted on exactly the bytes that the models read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from ttr.tasks.ngrams import ORDERS, NGrams, with_cache
from ttr.tasks.tokens import WindowBytes

UNIGRAM = "byte-unigram"
LEAST_LOOKED_UP = (3, 4, 5)
"""Bytes of context from which on the cache of the window is tried."""
TUNING_WINDOWS = 48
"""About as many of the tuning windows choose among n-grams."""


@dataclass(frozen=True)
class Reference:
    """Bits of every validation token without training: of the windows as they are, and with their first half
    taken from another window."""

    name: str
    bits: Float[Tensor, "W T"]
    replaced: Float[Tensor, "W T"]


def count(
    content: UInt8[Tensor, " N"],
    read: Bool[Tensor, " N"],
    tuning: WindowBytes,
    validation: WindowBytes,
    replaced: WindowBytes,
    cache: bool,
) -> list[Reference]:
    """The byte frequencies, the best n-gram, and with ``cache`` the best n-gram with a cache of the window;
    the order, and the least context that the cache looks up, are those that are best on the tuning
    windows."""
    grams = NGrams.fit(content, read)

    def spent(p: Tensor) -> float:
        return tuning.by_token(-p.log2()).sum().item()

    tried = grams.probabilities(tuning.rows)
    best = min(range(len(ORDERS)), key=lambda order: spent(tried[order]))
    judged = (validation, replaced)
    plain = [grams.probabilities(each.rows) for each in judged]
    probabilities = {UNIGRAM: [p[0] for p in plain], f"{ORDERS[best]}-gram": [p[best] for p in plain]}
    if cache:
        least = min(LEAST_LOOKED_UP, key=lambda m: spent(with_cache(tuning.rows, tried[best], m)))
        probabilities[f"{ORDERS[best]}-gram + cache"] = [
            with_cache(each.rows, p[best], least) for each, p in zip(judged, plain)
        ]
    return [
        Reference(name, *(of.by_token(-p.log2()).float() for of, p in zip(judged, each)))
        for name, each in probabilities.items()
    ]


def with_replaced_past(windows: Int[Tensor, "W L"]) -> Int[Tensor, "W L"]:
    """The windows with their first half, of the tokens that are read, taken from the window half the set
    away."""
    half = (windows.shape[1] - 1) // 2
    other = windows.roll(max(1, len(windows) // 2), 0)
    return torch.cat([other[:, :half], windows[:, half:]], dim=1)
