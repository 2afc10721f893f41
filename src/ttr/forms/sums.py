"""Sums along time that are deterministic on every device."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad


def running_sum(x: Float[Tensor, "*lead T"], block: int = 16) -> Float[Tensor, "*lead T"]:
    """Sums along the last axis, as products with triangles of ones: ``cumsum`` is not deterministic on CUDA
    devices."""
    time = x.shape[-1]
    if isinstance(time, torch.SymInt):  # an exported graph leaves the number of blocks of blocks open
        return x.cumsum(-1)
    if time <= 1:
        return x
    blocks = pad(x, (0, -time % block)).unflatten(-1, (-1, block))
    inside = blocks @ torch.ones(block, block, dtype=x.dtype, device=x.device).triu()
    # of earlier blocks only, so that later tokens do not change a bit
    before = pad(running_sum(inside[..., -1], block)[..., :-1], (1, 0))
    return (inside + before[..., None]).flatten(-2)[..., :time]


def lengthened(
    x: Float[Tensor, "*shape"], axis: int, count: int, value: float = 0.0
) -> Float[Tensor, "*longer"]:
    """x with ``count`` more entries along an axis. ``torch.nn.functional.pad`` takes no empty tensors before
    torch 2.7."""
    if count == 0:
        return x
    shape = list(x.shape)
    shape[axis] = count
    return torch.cat([x, x.new_full(shape, value)], dim=axis)
