"""What a law is, and what it measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.backends.backend import Backend
from ttr.dispatch import regress
from ttr.laws.rows import Case
from ttr.laws.tolerances import error, ill_conditioned, tolerance
from ttr.problem import Problem


@dataclass(frozen=True)
class Setting:
    """Where a law is tried: the backend, and the device and dtype of the inputs."""

    backend: Backend
    device: str = "cpu"
    dtype: torch.dtype = torch.float64

    def run(self, case: Case, **options: object):
        """The call through dispatch, with this backend forced."""
        return regress(case.problem, backend=self.backend, **{**case.arguments(), **options})


@dataclass(frozen=True)
class Measurement:
    """One number a law compared with its bound."""

    law: str
    quantity: str
    error: float
    bound: float

    @property
    def kept(self) -> bool:
        return self.error <= self.bound


@dataclass(frozen=True)
class Law:
    """A named statement about every problem and backend; ``measure(problem, setting)`` yields (quantity, error, bound)."""

    number: int
    name: str
    measure: Callable[[Problem, Setting], Iterable[tuple[str, float, float]]]
    slow: bool = False
    """Left to ``make check`` and ``ttr verify``."""

    def __call__(self, problem: Problem, setting: Setting) -> list[Measurement]:
        least = ill_conditioned(problem.solver.condition, setting.dtype)
        return [Measurement(self.name, quantity, error, max(bound, least) if bound else bound)
                for quantity, error, bound in self.measure(problem, setting)]


def compare(quantity: str, value: Tensor, reference: Tensor, dtype: torch.dtype) -> tuple[str, float, float]:
    """The relative error of ``value`` beside the bound for ``dtype``."""
    return quantity, error(value, reference), tolerance(dtype)


def compare_states(quantity: str, state, reference, dtype: torch.dtype) -> Iterable[tuple[str, float, float]]:
    """The same for every tensor of two states, and their positions."""
    for name in reference:
        yield compare(f"{quantity} {name}", state[name], reference[name], dtype)
    yield f"{quantity} position", float((state.position != reference.position).any()), 0.0
