from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.weights._rotating import _Rotating


@dataclass(frozen=True)
class Cosine(_Rotating):
    """A pair that is n tokens old counts cos(pi n / (2 horizon)): Re of a fixed phase per token (cosFormer,
    arXiv 2202.08791).

    The weights fall from 1 to 0 within ``horizon`` tokens and would be negative beyond it, so longer
    sequences are refused. The original uses the length of the call as its horizon, so that a longer call
    changes earlier outputs; a fixed horizon makes the layer causal.
    """

    horizon: int = 4096

    def __post_init__(self) -> None:
        if not isinstance(self.horizon, int) or self.horizon < 1:
            raise ValueError(
                f"Cosine(horizon={self.horizon}) covers no token. Use the length of the longest sequence, "
                "a whole number of at least 1."
            )

    def phase(self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], like: Tensor) -> Tensor:
        return torch.full((), math.pi / (2 * self.horizon), dtype=like.dtype, device=like.device)

    def formulas(self) -> dict[str, str]:
        return super().formulas() | {
            "weight": (
                f"gamma_i^(t) = cos(pi (t - i) / {2 * self.horizon}) for the first {self.horizon} tokens"
            ),
            "decay": f"D_t = exp(sqrt(-1) pi / {2 * self.horizon})",
        }

    @classmethod
    def examples(cls) -> tuple[Cosine, ...]:
        return (cls(horizon=160),)
