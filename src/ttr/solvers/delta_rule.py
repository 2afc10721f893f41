from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ttr.problem import Solver


@dataclass(frozen=True)
class DeltaRule(Solver):
    """One gradient step per pair on 1/2 ||v - m(k)||^2: S <- D S + step k (v - S_x^T p)^T.

    D is the retention, S_x the memory at which the error is measured: D S with ``gradient_at="decayed"`` (Gated DeltaNet,
    arXiv 2412.06464), S with "old" (Comba, 2506.02475). p is the key k itself or, with ``separate_read``, the control
    ``read_key``. With ``pairs_per_token`` > 1 the pairs of a token are learned one after the other, the retention acting
    once before the first (DeltaProduct, 2502.10297).
    """

    gradient_at: Literal["decayed", "old"] = "decayed"
    separate_read: bool = False
    pairs_per_token: int = 1

    weights_act_on: ClassVar[Literal["memory"]] = "memory"

    def __post_init__(self) -> None:
        if self.gradient_at not in ("decayed", "old"):
            raise ValueError(f"gradient_at={self.gradient_at!r} is unknown. Use 'decayed' or 'old'.")
        if self.pairs_per_token < 1:
            raise ValueError(f"pairs_per_token={self.pairs_per_token} learns nothing. Use 1 or more.")

    def controls(self) -> dict[str, str]:
        return {"step_size": "BTH"} | ({"read_key": "BTHK"} if self.separate_read else {})

    def objective(self, predict: Callable[[Tensor, Tensor], Tensor], memory: Tensor, *data: Tensor) -> Tensor:
        """``data`` = anchor memory, key, read key, value of one pair. Its gradient in ``memory``, taken at the anchor,
        is the update. With a read key of its own the error is measured there and written at the key, which is the
        gradient of no single loss: the objective is linearised about the anchor."""
        anchor, key, read_key, value = data
        if not self.separate_read:
            return 0.5 * (value - predict(memory, key)).square().sum()
        return (predict(memory, key) * (predict(anchor, read_key) - value)).sum()

    @classmethod
    def examples(cls) -> tuple[DeltaRule, ...]:
        return (cls(), cls(gradient_at="old", separate_read=True), cls(pairs_per_token=2), cls("old", pairs_per_token=3))
