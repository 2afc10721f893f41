from __future__ import annotations

from dataclasses import dataclass

from ttr.problem import Weights


@dataclass(frozen=True)
class Uniform(Weights):
    """Every pair has weight 1, whatever its age: gamma = 1."""

    def formulas(self) -> dict[str, str]:
        return {"weight": "gamma_i^(t) = 1"}

    @classmethod
    def examples(cls) -> tuple[Uniform, ...]:
        return (cls(),)
