"""Log decays: resets, and products of a factor and rates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RESET = -80.0
"""A log decay from here down is a reset: exp(-80) = 2e-35 is negligible beside the pair just written."""


def with_resets(log_decay: Tensor) -> Tensor:
    """The log decay with -inf, which has no gradient, for entries from ``RESET`` down."""
    return torch.nn.functional.threshold(log_decay, RESET, -torch.inf)


def with_rates(log_retention: Tensor, rates: Tensor) -> Tensor:
    """The log decay [B,T,H,K] as the product of a factor [B,T,H] and rates [H,K]."""
    return with_resets(log_retention[..., None] * rates)


def numbers_of_heads(heads: int, among: tuple[int, int] | None) -> tuple[range, int]:
    """The numbers of the heads of a memory, and of how many: (first, H) if it is one of several that share H
    heads, all of them if it is None.

    Raises:
        ValueError: if there are no such heads.
    """
    first, total = among or (0, heads)
    if not 0 <= first <= total - heads:
        raise ValueError(
            f"There are no {heads} heads from number {first} on among {total}. Use the number of the first, "
            "counted from 0, and the number of all."
        )
    return range(first, first + heads), total


def of_heads(numbers: Sequence[float], like: Tensor) -> Tensor:
    """Fixed numbers, one for each head."""
    if torch.compiler.is_compiling():  # ONNX has no loop that holds a constant, but one that makes it
        return torch.stack([torch.full((), x, dtype=like.dtype, device=like.device) for x in numbers])
    return torch.tensor(numbers, dtype=like.dtype, device=like.device)
