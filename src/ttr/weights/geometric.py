from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ttr.problem import RESET, Weights


@dataclass(frozen=True)
class Geometric(Weights):
    """Input-dependent forgetting: gamma_i^(t) = prod_{i<j<=t} exp(log_decay_j).

    The newest pair has weight 1: its own decay acts on the older ones only. A log decay below ``RESET`` forgets the
    past altogether and has no gradient.
    """

    per: Literal["head", "channel"] = "head"

    def __post_init__(self) -> None:
        if self.per not in ("head", "channel"):
            raise ValueError(f"Geometric(per={self.per!r}) is unknown. Use per='head' or per='channel'.")

    @property
    def retention(self) -> Literal["head", "channel"]:
        return self.per

    def controls(self) -> dict[str, str]:
        return {"log_decay": "BTH" if self.per == "head" else "BTHK"}

    def log_retention(self, controls: Mapping[str, Tensor], heads: int, like: Tensor) -> Tensor:
        log_decay = controls["log_decay"]
        return torch.where(log_decay < RESET, -torch.inf, log_decay)

    @classmethod
    def examples(cls) -> tuple[Geometric, ...]:
        return (cls("head"), cls("channel"))
