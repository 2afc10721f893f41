from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ttr.axes import with_rates
from ttr.component import Parameter
from ttr.problem import Problem, Weights, Worked
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
        folding = [factor for factor in self.factors if factor.folds]
        if folding:
            raise ValueError(
                f"{type(folding[0]).__name__} is a recurrence of its own and cannot be a "
                "factor. Use it alone, with its own controls."
            )
        names = [name for factor in self.factors for name in factor.controls()]
        if len(self.factors) < 2:
            raise ValueError(
                "Product needs at least two weights. Use the weight itself, or Uniform() for none."
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
        """The factors' weights and decays multiplied, then what their letters mean; other titles as the last
        factor has them."""
        told = [factor.formulas() for factor in self.factors]
        parts = [
            formulas.get("weight", "").removeprefix("gamma_i^(t) = ").partition(", ") for formulas in told
        ]
        weight = " ".join(
            f"({expression})" if expression.startswith("prod") else expression for expression, _, _ in parts
        )
        meanings = "".join(f", {meaning}" for _, _, meaning in parts if meaning)
        decays = [formulas["decay"].removeprefix("D_t = ") for formulas in told if "decay" in formulas]
        others = {title: text for formulas in told for title, text in formulas.items()}
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

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.linear import Linear
        from ttr.solvers.one_step import OneStep
        from ttr.weights.multi_scale import MultiScale

        q, k, v, y = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2]],
                [[3, 2], [2, -0.5], [-2, 4]],
                [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
                # Retentions multiply: 0.875 for the head times (0.5, 0.3), (0.8, 0.4), (0.25, 0.6) for the
                # channels; importances 0.5, 3, 0.25. k_1 counts 0.5 * (3, 2), then 0.5 * 0.875 * (2.4, 0.8),
                # then 0.5 * 0.875^2 * (0.6, 0.48); k_2 counts 3 * (2, -0.5), then 3 * 0.875 * (0.5, -0.3);
                # k_3 counts
                # 0.25 * (-2, 4). Scores with q_t / 2: 3 | 0.4375 * -2.8 = -1.225, 3 * -3.5 = -10.5 |
                # 0.3828125 * -0.33 = -0.126328125, 2.625 * 0.425 = 1.115625, 0.25 * -4.5 = -1.125.
                [[6, -9, 1.5], [18.55, -38.325, -32.1125], [-8.10890625, 5.403984375, 7.7837109375]],
            )
        )
        many = cls((MultiScale(first=3.0), Geometric("channel"), Importance()))
        decay = torch.tensor([[0.5, 0.3], [0.8, 0.4], [0.25, 0.6]], dtype=torch.float64).log()[None, :, None]
        controls = {
            "log_decay": decay,
            "log_importance": torch.tensor([[[0.5], [3], [0.25]]], dtype=torch.float64).log(),
        }

        q4, k4, v4, y4 = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2], [3, 0.5]],
                [[3, 2], [2, -0.5], [-2, 4], [0.5, 3]],
                [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4], [3, 2, -2.5]],
                # The narrower window of 2 holds, with decays 0.5, 0.8, 0.25, 0.4: 6 | -2.5 * 0.8 = -2, -3.5 |
                # 1 * 0.25, -4.5 | -2 * 0.4 = -0.8, 1.5.
                [[12, -18, 3], [3, -8, -11.5], [-23, 3.25, 18.75], [0.5, 3.4, -0.55]],
            )
        )
        narrow = cls((Window(3), Geometric("head"), Window(2)))
        decay4 = {"log_decay": torch.tensor([[[0.5], [0.8], [0.25], [0.4]]], dtype=torch.float64).log()}
        return (
            Worked(Problem(many, Linear(scale=0.5), OneStep()), q, k, v, y, controls),
            Worked(Problem(narrow, Linear(scale=0.5), OneStep()), q4, k4, v4, y4, decay4),
        )
