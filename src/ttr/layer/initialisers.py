"""Initialisers of the tensors of a layer's parts."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def fan_in(size: int) -> Callable[[tuple[int, ...], torch.Generator | None], Tensor]:
    """The initialiser of a linear map from ``size`` channels that preserves their scale: normal with variance
    1 / size."""
    return lambda shape, generator: torch.randn(shape, generator=generator) / math.sqrt(max(size, 1))


def log_uniform_rates(low: float, high: float) -> Callable[[tuple[int, ...], torch.Generator | None], Tensor]:
    """The initialiser of tensors whose exponential is uniform between ``low`` and ``high``, bounded away from
    0."""
    return lambda shape, generator: torch.log(
        (low + (high - low) * torch.rand(shape, generator=generator)).clamp(min=1e-2)
    )


def time_step_bias(
    low: float = 1e-3, high: float = 0.1
) -> Callable[[tuple[int, ...], torch.Generator | None], Tensor]:
    """The initialiser of tensors whose softplus is log-uniform between ``low`` and ``high`` (Mamba, arXiv
    2312.00752)."""

    def init(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        step = torch.exp(
            math.log(low) + (math.log(high) - math.log(low)) * torch.rand(shape, generator=generator)
        )
        return step + torch.log(-torch.expm1(-step))

    return init


def ring_radii(heads: int, smallest: float, largest: float) -> Tensor:
    """Radii of points that fill a ring of the unit disk evenly: their squares are equally spaced (LRU, arXiv
    2303.06349)."""
    place = (torch.arange(heads) + 0.5) / heads
    return torch.sqrt(smallest**2 + (largest**2 - smallest**2) * place)


def inverse_softplus(value: float) -> float:
    """The number whose softplus is ``value``."""
    return value + math.log(-math.expm1(-value))
