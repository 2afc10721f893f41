"""On which level of a Fenwick tree a pair lies: what the engines of memories with levels share."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def level(read: Int[Tensor, "*#lead"], write: Int[Tensor, "*#lead"], levels: int) -> Int[Tensor, "*lead"]:
    """bit_length(read xor write), at most ``levels`` - 1: the level on which the token ``read`` finds the
    pair of token ``write``."""
    difference = torch.bitwise_xor(read, write)
    return sum(((difference >> bit) > 0).long() for bit in range(levels - 1)) + torch.zeros_like(difference)


def later(since: Int[Tensor, "*lead"], levels: int) -> Int[Tensor, "*lead {levels}"]:
    """Where the levels seen from a token s lie for a later token t, ``since`` = level(t, s).

    A pair of level l differs from s first at bit l - 1, and t from s at bit ``since`` - 1. The higher of the
    two is where t differs from the pair; they cannot be the same bit, which s would have set for the pair to
    lie before it, and unset for t to lie behind.
    """
    return torch.maximum(torch.arange(levels, device=since.device), since[..., None])


def regrouped(memory: Float[Tensor, "B H L F V"], since: Int[Tensor, " B"]) -> Float[Tensor, "B H L F V"]:
    """The memories of all levels as a later token sees them."""
    levels = memory.shape[2]
    moves = later(since, levels)[:, None] == torch.arange(levels, device=since.device)[:, None]
    return torch.einsum("bnl,bhlfv->bhnfv", moves.to(memory), memory)
