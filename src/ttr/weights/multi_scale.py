from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.problem import Weights


@dataclass(frozen=True)
class MultiScale(Weights):
    """Fixed forgetting, one rate per head: head h keeps 1 - 2^-(first + h) of the past (RetNet, arXiv 2307.08621)."""

    first: float = 5.0

    retention = "head"

    def log_retention(self, controls: Mapping[str, Tensor], heads: int, like: Tensor) -> Tensor:
        rates = [math.log1p(-(2.0 ** -(self.first + h))) for h in range(heads)]
        return torch.tensor(rates, dtype=like.dtype, device=like.device)

    @classmethod
    def examples(cls) -> tuple[MultiScale, ...]:
        return (cls(first=2.0),)
