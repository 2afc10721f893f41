from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ttr.solvers.losses._loss import _Loss


@dataclass(frozen=True)
class PowerError(_Loss):
    """l = 1/p sum_c |m(k)_c - v_c|^p (Moneta, arXiv 2504.13173, without the 1/p, which the step takes up). p
    = 2 is ``SquaredError``.

    Raises:
        ValueError: if p is below 2, where the slope is not smooth at 0.
    """

    power: float = 3.0

    @property
    def formula(self) -> str:
        return f"sum_c |m_c - v_c|^{self.power:g} / {self.power:g}"

    @property
    def note(self) -> str:
        return (
            ""
            if self.power == 2
            else (f"The loss is the error to the power {self.power:g}, not the squared error.")
        )

    def __post_init__(self) -> None:
        if not self.power >= 2:
            raise ValueError(
                f"PowerError(power={self.power}) has no smooth slope where the error is 0. Use "
                "a power of at least 2."
            )

    def __call__(self, prediction: Tensor, value: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        return (prediction - value).abs().pow(self.power).sum(-1) / self.power

    def slope(self, prediction: Tensor, value: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        error = prediction - value
        return error * error.abs().pow(self.power - 2)

    @classmethod
    def examples(cls) -> tuple[PowerError, ...]:
        return (cls(),)
