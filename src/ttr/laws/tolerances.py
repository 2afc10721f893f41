"""All tolerances of the project, in one table.

Errors are relative to the scale of the reference: max |a - b| / max(max |b|, FLOOR).
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOAT64 = 1e-9
"""Engine against oracle in float64: outputs, gradients, states; ridge >= 0.1, unit-scale scores."""

FLOAT32 = 1e-4
"""The same in float32, against the oracle in float64 at the same inputs."""

FLOAT32_OUTPUTS = 1e-5
"""Outputs and memories of the kernels of linear recurrences in float32, also for nearly equal keys."""

HALF = 2e-2
"""The same for bfloat16 and float16 inputs and outputs; the arithmetic between them is float32."""

ORDER = 1.0
"""Results that need only be finite and of the right order, since another law measures their digits."""

PARITY = 1e-9
"""Oracle against the original implementation, both in float64."""

ANSWERED = 0.1
"""The largest error of a result, however ill-conditioned: beyond it no digit is correct, and the call must be
refused."""

FLOOR = 0.1
"""The least scale of a reference that errors are relative to; the inputs of the laws have unit scale."""


def tolerance(dtype: torch.dtype) -> float:
    """The bound for results of a dtype."""
    return {torch.float64: FLOAT64, torch.float32: FLOAT32}.get(dtype, HALF)


def ill_conditioned(condition: float, dtype: torch.dtype) -> float:
    """The bound for a system with that condition number: 50 eps cond."""
    return 50 * torch.finfo(dtype).eps * condition


def error(value: Tensor, reference: Tensor) -> float:
    """max |a - b| relative to the reference's scale; infinite if the shapes differ or there is a NaN or a
    wrong infinity."""
    if value.shape != reference.shape:
        return float("inf")
    if value.numel() == 0:
        return 0.0
    value, reference = value.detach().double(), reference.detach().double()
    same = (value == reference) | torch.isneginf(value) & torch.isneginf(reference)
    distance = torch.where(same, 0.0, (value - reference).abs())
    finite = reference[torch.isfinite(reference)]
    scale = max(finite.abs().max().item() if finite.numel() else 0.0, FLOOR)
    worst = distance.max().item() / scale
    return worst if worst == worst else float("inf")
