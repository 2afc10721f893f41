from __future__ import annotations

from dataclasses import dataclass

from ttr.problem import Weights


@dataclass(frozen=True)
class Window(Weights):
    """The ``size`` newest pairs, the token's own included, have weight 1, and all others 0."""

    size: int = 128

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"Window(size={self.size}) contains no pair. Use a whole number of at least 1.")

    @property
    def window(self) -> int:
        return self.size

    def formulas(self) -> dict[str, str]:
        return {"weight": f"gamma_i^(t) = [t - i < {self.size}], [ ] being 1 if true, else 0"}

    @classmethod
    def examples(cls) -> tuple[Window, ...]:
        return (cls(3),)
