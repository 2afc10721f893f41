from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ttr.problem import Weights
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.window import Window


@dataclass(frozen=True)
class Product(Weights):
    """The product of several weights: their logarithms add, the narrowest window holds.

    Raises:
        ValueError: if two factors bring a control of the same name, which could not be told apart.
    """

    factors: tuple[Weights, ...] = ()

    def __post_init__(self) -> None:
        names = [name for factor in self.factors for name in factor.controls()]
        if len(self.factors) < 2:
            raise ValueError("Product needs at least two weights. Use the weight itself, or Uniform() for none.")
        if len(set(names)) < len(names):
            raise ValueError(f"Two factors of {self!r} need the same control. Add the logarithms yourself and use one factor.")

    @property
    def retention(self) -> Literal["head", "channel"] | None:
        kinds = {factor.retention for factor in self.factors}
        return "channel" if "channel" in kinds else "head" if "head" in kinds else None

    @property
    def window(self) -> int | None:
        return min((factor.window for factor in self.factors if factor.window is not None), default=None)

    @property
    def importance(self) -> bool:
        return any(factor.importance for factor in self.factors)

    def controls(self) -> dict[str, str]:
        return {name: axes for factor in self.factors for name, axes in factor.controls().items()}

    def log_retention(self, controls: Mapping[str, Tensor], heads: int, like: Tensor) -> Tensor | None:
        logs = [factor.log_retention(controls, heads, like) for factor in self.factors]
        logs = [log[..., None] if self.retention == "channel" and factor.retention == "head" else log
                for factor, log in zip(self.factors, logs) if log is not None]
        return sum(logs[1:], logs[0]) if logs else None

    def log_importance(self, controls: Mapping[str, Tensor]) -> Tensor | None:
        logs = [log for factor in self.factors if (log := factor.log_importance(controls)) is not None]
        return sum(logs[1:], logs[0]) if logs else None

    @classmethod
    def examples(cls) -> tuple[Product, ...]:
        return (cls((Geometric("head"), Importance())), cls((Geometric("channel"), Importance())), cls((Geometric("head"), Window(4))))
