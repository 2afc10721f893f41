"""Log decays: resets, and products of a factor and rates."""

from __future__ import annotations

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
