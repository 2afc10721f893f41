"""Streams of pairs to regress on while they come: keys, values, and nothing to train. Pure functions of their
arguments."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def piecewise_linear(
    streams: int, length: int, size: int, segment: int, seed: int, directions: int | None = None
) -> tuple[Tensor, Tensor]:
    """Keys and values [streams,length,size] of a map that is linear for ``segment`` tokens and then another,
    with keys that move along: k = unit(mu + 0.75 e / sqrt(size)) about a unit centre mu of the segment and v
    = W k, e and W of unit normal entries (after arXiv 2510.01450). With ``directions`` only the first so many
    channels of the keys count for the values, in all segments of all streams."""
    generator = torch.Generator().manual_seed(seed)
    count = -(-length // segment)
    centre = normalize(torch.randn(streams, count, 1, size, generator=generator), dim=-1)
    keys = normalize(
        centre + 0.75 * size**-0.5 * torch.randn(streams, count, segment, size, generator=generator), dim=-1
    )
    values = keys[..., :directions] @ torch.randn(
        streams, count, directions or size, size, generator=generator
    )
    return keys.flatten(1, 2)[:, :length], values.flatten(1, 2)[:, :length]


def smooth_map(
    streams: int, length: int, size: int, seed: int, hidden: int = 16, noise: float = 0.05
) -> tuple[Tensor, Tensor]:
    """Keys u on the sphere and values [streams,length,size] of one smooth map, v = W2 sin(W1 u + b) + noise,
    for all streams of all seeds: W1 has normal entries of size 1.5, W2 of size 1/4, b is uniform on a
    circle."""
    of_map, generator = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    inner, outer = (
        1.5 * torch.randn(hidden, size, generator=of_map),
        0.25 * torch.randn(size, hidden, generator=of_map),
    )
    shift = 2 * torch.pi * torch.rand(hidden, generator=of_map)
    keys = normalize(torch.randn(streams, length, size, generator=generator), dim=-1)
    values = torch.sin(keys @ inner.T + shift) @ outer.T
    return keys, values + noise * torch.randn(values.shape, generator=generator)
