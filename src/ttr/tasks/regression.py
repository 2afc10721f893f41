"""Streams of keys and values for online regression, without anything to train. Pure functions of their
arguments."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def piecewise_linear(
    streams: int, length: int, size: int, segment: int, seed: int, directions: int | None = None
) -> tuple[Tensor, Tensor]:
    """Keys and values [streams,length,size] of a piecewise linear map: every ``segment`` tokens have a map v
    = W k and keys k = unit(mu + 0.75 e / sqrt(size)) around a unit centre mu of their own, with e and W of
    unit normal entries (after arXiv 2510.01450). With ``directions`` the values depend on only that many
    channels of the keys, the first ones, in all segments of all streams."""
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
    """Keys u on the unit sphere and values [streams,length,size] of one smooth map, v = W2 sin(W1 u + b) +
    noise, which is the same for all streams and seeds: the entries of W1 are normal with deviation 1.5, those
    of W2 with deviation 1/4, and b is uniform in [0, 2 pi)."""
    of_map, generator = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    inner, outer = (
        1.5 * torch.randn(hidden, size, generator=of_map),
        0.25 * torch.randn(size, hidden, generator=of_map),
    )
    shift = 2 * torch.pi * torch.rand(hidden, generator=of_map)
    keys = normalize(torch.randn(streams, length, size, generator=generator), dim=-1)
    values = torch.sin(keys @ inner.T + shift) @ outer.T
    return keys, values + noise * torch.randn(values.shape, generator=generator)
