from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ttr.component import Parameter
from ttr.decay import with_rates
from ttr.problem import Weights
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.window import Window


@dataclass(frozen=True)
class Product(Weights):
    """The product of several weights: their logarithms add, and the narrowest window applies.

    Raises:
        ValueError: if two factors need a control of the same name, or a factor defines its own recurrence.
    """

    factors: tuple[Weights, ...] = ()

    def __post_init__(self) -> None:
        folding = [factor for factor in self.factors if factor.folds]
        if folding:
            raise ValueError(
                f"{type(folding[0]).__name__} defines its own recurrence and cannot be a factor. Use it "
                "alone, with its own controls."
            )
        names = [name for factor in self.factors for name in factor.controls()]
        if len(self.factors) < 2:
            raise ValueError(
                "Product needs at least two weights. Use the one weight itself, or Uniform() if there is "
                "none."
            )
        if len(set(names)) < len(names):
            raise ValueError(
                f"Two factors of {self!r} need the same control. Add the logarithms yourself "
                "and use one factor."
            )

    @property
    def retention(self) -> Literal["head", "channel"] | None:
        kinds = {factor.retention for factor in self.factors}
        return "channel" if "channel" in kinds else "head" if "head" in kinds else None

    @property
    def window(self) -> int | None:
        windows = [factor.window for factor in self.factors if factor.window is not None]
        return min(windows) if windows else None

    @property
    def importance(self) -> bool:
        return any(factor.importance for factor in self.factors)

    def controls(self) -> dict[str, str]:
        return {name: axes for factor in self.factors for name, axes in factor.controls().items()}

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        return {
            name: p
            for factor in self.factors
            for name, p in factor.parameters(heads, key_size, value_size).items()
        }

    def at_layer(self, layer: int, layers: int) -> Product:
        return Product(tuple(factor.at_layer(layer, layers) for factor in self.factors))

    def at_heads(self, first: int, heads: int) -> Product:
        return Product(tuple(factor.at_heads(first, heads) for factor in self.factors))

    def log_retention(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor
    ) -> Tensor | None:
        logs = [factor.log_retention(controls, params, heads, like) for factor in self.factors]
        if self.rates(params) is None:
            rates = [factor.rates(params) for factor in self.factors]
            logs = [log if rate is None else with_rates(log, rate) for log, rate in zip(logs, rates)]
        channels = self.retention == "channel"
        logs = [
            log[..., None] if channels and factor.retention == "head" else log
            for factor, log in zip(self.factors, logs)
            if log is not None
        ]
        return sum(logs[1:], logs[0]) if logs else None

    def rates(self, params: Mapping[str, Tensor]) -> Tensor | None:
        retaining = [factor for factor in self.factors if factor.retention is not None]
        return retaining[0].rates(params) if len(retaining) == 1 else None

    def log_importance(self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> Tensor | None:
        logs = [
            log for factor in self.factors if (log := factor.log_importance(controls, params)) is not None
        ]
        return sum(logs[1:], logs[0]) if logs else None

    def formulas(self) -> dict[str, str]:
        """The product of the factors' weights and decays, then what their letters mean; other titles as in
        the last factor."""
        described = [factor.formulas() for factor in self.factors]
        parts = [
            formulas.get("weight", "").removeprefix("gamma_i^(t) = ").partition(", ")
            for formulas in described
        ]
        weight = " ".join(
            f"({expression})" if expression.startswith("prod") else expression for expression, _, _ in parts
        )
        meanings = "".join(f", {meaning}" for _, _, meaning in parts if meaning)
        decays = [formulas["decay"].removeprefix("D_t = ") for formulas in described if "decay" in formulas]
        others = {title: text for formulas in described for title, text in formulas.items()}
        return (
            others
            | {"weight": f"gamma_i^(t) = {weight}{meanings}"}
            | ({"decay": (f"D_t = {' '.join(decays)}")} if decays else {})
        )

    @classmethod
    def examples(cls) -> tuple[Product, ...]:
        return (
            cls((Geometric("head"), Importance())),
            cls((Geometric("channel"), Importance())),
            cls((Geometric("head"), Window(4))),
        )
