"""Tokens at places counted from the first token of a state, not of a call: rows of a batch may be at
different places."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """``count`` pieces of ``size`` places. The first token of row b lies at place position_b mod size of the
    first piece; the places before it and after the last are empty. No shape depends on the values of
    ``position``, so that one graph holds for all of them.
    """

    position: Int[Tensor, " B"]
    length: int
    size: int

    @property
    def count(self) -> int:
        return -(-(self.length + self.size - 1) // self.size)

    @property
    def first(self) -> Int[Tensor, " B"]:
        """The place of every row's first token."""
        return self.position % self.size

    def chunks(self, x: Float[Tensor, "B T *rest"], fill: float = 0.0) -> Float[Tensor, "M B C *rest"]:
        """The tokens at their places, ``fill`` in the empty ones."""
        place = torch.arange(self.count * self.size, device=x.device) - self.first[:, None]
        there = (place >= 0) & (place < self.length)
        at = place.clamp(0, max(self.length - 1, 0))
        laid = _take(x, at).masked_fill(~_spread(there, x), fill)
        return laid.unflatten(1, (self.count, self.size)).transpose(0, 1)

    def join(self, chunks: list[Float[Tensor, "B C *rest"]]) -> Float[Tensor, "B T *rest"]:
        """The tokens from their places, the inverse of ``chunks``."""
        laid = torch.cat(chunks, dim=1)
        return _take(laid, self.first[:, None] + torch.arange(self.length, device=laid.device))

    def full(self, m: int, chunk: int) -> Tensor:
        """Whether a chunk of ``chunk`` tokens, a multiple of ``size``, ends with place m and this call's
        tokens reach it, [B]."""
        seen = self.position - self.first + (m + 1) * self.size
        return (self.first + self.length >= (m + 1) * self.size) & (seen % chunk == 0)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """x [B,L,...] at index [B,N] of its second axis."""
    return x.gather(1, _spread(index, x).expand(*index.shape, *x.shape[2:]))


def _spread(x: Tensor, like: Tensor) -> Tensor:
    return x.reshape(*x.shape, *(1,) * (like.ndim - x.ndim))
