"""Streams of keys and values for regression at test time, without anything to train.

A stream is a pure function of its settings and its seed. What an exact memory can know of a value is its
``truth``; the rest is noise, the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


class Stream(NamedTuple):
    """Pairs in their order.

    Attributes:
        keys, values: what a memory reads.
        truth: the values without their noise.
    """

    keys: Float[Tensor, "B T K"]
    values: Float[Tensor, "B T V"]
    truth: Float[Tensor, "B T V"]


def linear_map(
    streams: int,
    length: int,
    size: int,
    seed: int,
    segment: int | None = None,
    spread: float = 0.0,
    noise: float = 0.0,
) -> Stream:
    """Values v = W k + noise of unit keys. The entries of W are normal; with ``segment`` there is a new W
    after so many tokens, and the keys go on as before. The covariance of the keys has eigenvalues from 1 down
    to 10^-spread in directions of each stream's own; with 0 all directions are alike."""
    generator = torch.Generator().manual_seed(seed)
    count = 1 if segment is None else -(-length // segment)
    basis = torch.linalg.qr(torch.randn(streams, size, size, generator=generator)).Q
    deviation = 10 ** (-0.5 * spread * torch.linspace(0, 1, size))
    keys = normalize(torch.randn(streams, length, size, generator=generator) * deviation @ basis.mT, dim=-1)
    maps = torch.randn(streams, count, size, size, generator=generator)
    of_token = torch.arange(length) // (segment or length)
    truth = torch.einsum("btvk,btk->btv", maps[:, of_token], keys)
    if not noise:
        return Stream(keys, truth, truth)
    return Stream(keys, truth + noise * torch.randn(truth.shape, generator=generator), truth)


def piecewise_linear(
    streams: int, length: int, size: int, seed: int, segment: int, directions: int | None = None
) -> Stream:
    """A piecewise linear map: every ``segment`` tokens have a map v = W k and keys k = unit(mu + 0.75 e /
    sqrt(size)) around a unit centre mu of their own, with e and W of unit normal entries (after arXiv
    2510.01450). With ``directions`` the values depend on only that many channels of the keys, the first ones,
    in all segments of all streams."""
    generator = torch.Generator().manual_seed(seed)
    count = -(-length // segment)
    centre = normalize(torch.randn(streams, count, 1, size, generator=generator), dim=-1)
    keys = normalize(
        centre + 0.75 * size**-0.5 * torch.randn(streams, count, segment, size, generator=generator), dim=-1
    )
    values = keys[..., :directions] @ torch.randn(
        streams, count, directions or size, size, generator=generator
    )
    keys, values = (x.flatten(1, 2)[:, :length] for x in (keys, values))
    return Stream(keys, values, values)


def switching(streams: int, length: int, size: int, seed: int) -> Stream:
    """An autoregressive process whose law changes after a quarter of its tokens; a key is one of its points,
    and the value the next one. First x' = unit(A x + 0.5 e / sqrt(size)), which wanders over the whole
    sphere; then x' = unit(tanh(1.5 (c + 0.5 B x)) + 0.15 e / sqrt(size)), which stays near one place. A and B
    are random rotations, c is the first column of B, and e is normal. A substitute for the process of section
    5 of arXiv 2501.12352, whose exact form is not published."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.linalg.qr(torch.randn(2, streams, size, size, generator=generator)).Q
    noise = torch.randn(streams, length, size, generator=generator) / size**0.5
    x, points, truth = normalize(torch.randn(streams, size, generator=generator), dim=-1), [], []
    for t in range(length):
        points.append(x)
        if t < length // 4:
            mean, deviation = torch.einsum("bij,bj->bi", first, x), 0.5
        else:
            turned = torch.einsum("bij,bj->bi", second, x)
            mean, deviation = torch.tanh(1.5 * (second[..., 0] + 0.5 * turned)), 0.15
        truth.append(normalize(mean, dim=-1))
        x = normalize(mean + deviation * noise[:, t], dim=-1)
    keys = torch.stack(points, dim=1)
    return Stream(keys, torch.cat([keys[:, 1:], x[:, None]], dim=1), torch.stack(truth, dim=1))


def smooth_map(
    streams: int,
    length: int,
    size: int,
    seed: int,
    hidden: int = 16,
    noise: float = 0.05,
    norm_spread: float = 0.0,
    radius: float | None = None,
) -> Stream:
    """Values of one smooth map of unit keys u, v = W2 sin(W1 u + b) + noise, which is the same for all
    streams and seeds: the entries of W1 are normal with deviation 1.5, those of W2 with deviation 1/4, and b
    is uniform in [0, 2 pi). Keys point in all directions, a region without boundary; with ``radius`` in a cap
    alone, u = (sqrt(1 - ||x||^2), x) with x uniform in the ball of that radius. With ``norm_spread`` the keys
    are u times log-normal numbers, whose logarithms have that deviation; the values depend on u alone."""
    of_map, generator = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    inner, outer = (
        1.5 * torch.randn(hidden, size, generator=of_map),
        0.25 * torch.randn(size, hidden, generator=of_map),
    )
    shift = 2 * torch.pi * torch.rand(hidden, generator=of_map)
    if radius is None:
        keys = normalize(torch.randn(streams, length, size, generator=generator), dim=-1)
    else:
        x = normalize(torch.randn(streams, length, size - 1, generator=generator), dim=-1)
        x = radius * torch.rand(streams, length, 1, generator=generator) ** (1 / (size - 1)) * x
        keys = torch.cat([(1 - x.square().sum(-1, keepdim=True)).sqrt(), x], dim=-1)
    truth = torch.sin(keys @ inner.T + shift) @ outer.T
    values = truth + noise * torch.randn(truth.shape, generator=generator)
    if norm_spread:
        keys = keys * (norm_spread * torch.randn(streams, length, 1, generator=generator)).exp()
    return Stream(keys, values, truth)


def arc(streams: int, length: int, seed: int, half_angle: float = math.pi / 3, noise: float = 0.05) -> Stream:
    """Keys (cos a, sin a) on an arc of a circle, with angles a uniform up to ``half_angle`` to either side,
    and values (a, a^2) + noise: at the ends of the arc all keys lie on one side of a query."""
    generator = torch.Generator().manual_seed(seed)
    angle = half_angle * (2 * torch.rand(streams, length, generator=generator) - 1)
    truth = torch.stack([angle, angle.square()], dim=-1)
    values = truth + noise * torch.randn(truth.shape, generator=generator)
    return Stream(torch.stack([angle.cos(), angle.sin()], dim=-1), values, truth)


STREAMS: Mapping[str, Callable[..., Stream]] = {
    "linear-map": linear_map,
    "piecewise-linear": piecewise_linear,
    "switching": switching,
    "smooth-map": smooth_map,
    "arc": arc,
}
"""By the names that experiments call them."""
