"""Log decays: what is a reset, and how a factor and rates make one."""

from __future__ import annotations

import torch
from torch import Tensor

RESET = -80.0
"""A log decay from this down forgets everything: exp(-80) = 2e-35 is nothing beside the pair just written."""


def with_resets(log_decay: Tensor) -> Tensor:
    """A log decay whose entries from ``RESET`` down keep nothing at all, and have no gradient."""
    return torch.nn.functional.threshold(log_decay, RESET, -torch.inf)


def with_rates(log_retention: Tensor, rates: Tensor) -> Tensor:
    """The log retention [B,T,H,K] of a factor [B,T,H] and rates [H,K]."""
    return with_resets(log_retention[..., None] * rates)
