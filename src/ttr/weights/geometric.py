from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ttr.problem import Weights


@dataclass(frozen=True)
class Geometric(Weights):
    """Input-dependent decay: gamma_i^(t) = prod_{i<j<=t} exp(log_decay_j).

    The newest pair has weight 1: its own decay acts on the older ones only. A log decay below ``RESET``
    erases the past and has no gradient.
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

    def log_retention(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor
    ) -> Tensor:
        return controls["log_decay"]

    def formulas(self) -> dict[str, str]:
        if self.per == "head":
            return {"weight": "gamma_i^(t) = prod_{i<j<=t} a_j, a_t = exp(log_decay_t)", "decay": "D_t = a_t"}
        return {
            "weight": "gamma_i^(t) = prod_{i<j<=t} a_j, a_t = exp(log_decay_t), one for every key channel",
            "decay": "D_t = diag(a_t)",
            "approximation": "A decay per key channel is not a weight of a pair, so the memory minimises "
            "no weighted squared error in the keys themselves. It is the fit to keys whose channels have "
            "decayed by the time they are read.",
        }

    @classmethod
    def examples(cls) -> tuple[Geometric, ...]:
        return (cls("head"), cls("channel"))
