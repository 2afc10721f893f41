"""A law, the setting in which it is checked, and its measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.dispatch import regress
from ttr.engines.engine import Engine
from ttr.laws.rows import Case
from ttr.laws.tolerances import error, ill_conditioned, tolerance
from ttr.oracle import oracle
from ttr.problem import Problem
from ttr.state import State


@dataclass(frozen=True)
class Setting:
    """Where a law is checked: the engine, and the device and dtype of the inputs."""

    engine: Engine
    device: str = "cpu"
    dtype: torch.dtype = torch.float64

    def run(self, case: Case, **options: object):
        """The call through dispatch, with this engine forced."""
        return regress(case.problem, engine=self.engine, **{**case.arguments(), **options})


@dataclass(frozen=True)
class Measurement:
    """One error that a law compared with its bound."""

    law: str
    quantity: str
    error: float
    bound: float

    @property
    def passed(self) -> bool:
        return self.error <= self.bound


@dataclass(frozen=True)
class Law:
    """A named statement about every problem and engine; ``measure(problem, setting)`` yields (quantity,
    error, bound) triples."""

    number: int
    name: str
    measure: Callable[[Problem, Setting], Iterable[tuple[str, float, float]]]
    slow: bool = False
    """Checked only by ``make check`` and ``ttr verify``."""
    streaming: bool = False
    """Concerns states or the order of tokens."""

    def excuses(self, problem: Problem) -> str | None:
        """Why the law does not apply to a problem, as a sentence; None if it applies."""
        if self.streaming and not problem.function.causal:
            return "Every token reads the whole sequence, so there is neither a state nor a past."
        return None

    def __call__(self, problem: Problem, setting: Setting) -> list[Measurement]:
        if self.excuses(problem) is not None:
            return []
        least = ill_conditioned(problem.solver.limits().get("condition", 1.0), setting.dtype)
        return [
            Measurement(self.name, quantity, error, max(bound, least) if bound else bound)
            for quantity, error, bound in self.measure(problem, setting)
        ]


def by_definition(case: Case, **options: object):
    """The call through the oracle, with the interface of ``Setting.run``."""
    return oracle(case.problem, **case.arguments(), **options)


def outcome(run: Callable[..., object], case: Case, **options: object) -> tuple[Tensor, State]:
    """Read-outs and final state of a call ``run(case)``; the state is empty for a problem that is not
    causal."""
    if case.problem.function.causal:
        return run(case, return_state=True, **options)
    return run(case, **options), State(
        {}, torch.zeros(case.q.shape[0], dtype=torch.int64, device=case.q.device)
    )


def sentence(call: Callable[[], object]) -> str | None:
    """The message with which a call is refused; None if it is not refused, or the message is no sentence."""
    try:
        call()
    except ValueError as refusal:
        return str(refusal) if str(refusal).rstrip().endswith((".", ".)")) else None
    return None


def compare(quantity: str, value: Tensor, reference: Tensor, dtype: torch.dtype) -> tuple[str, float, float]:
    """(quantity, relative error of ``value``, bound for ``dtype``)."""
    return quantity, error(value, reference), tolerance(dtype)


def compare_states(quantity: str, state, reference, dtype: torch.dtype) -> Iterable[tuple[str, float, float]]:
    """The same for every tensor of two states, and their positions."""
    for name in reference:
        yield compare(f"{quantity} {name}", state[name], reference[name], dtype)
    yield f"{quantity} position", float((state.position != reference.position).any()), 0.0


def laws_named(names: Iterable[int | str] | None, laws: tuple[Law, ...]) -> tuple[Law, ...]:
    """The laws of those numbers or names, in their own order; all of them for None.

    Raises:
        ValueError: if there is no such law.
    """
    if names is None:
        return laws
    wanted = [str(name) for name in names]
    known = {str(law.number) for law in laws} | {law.name for law in laws}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        listed = "; ".join(f"{law.number} {law.name}" for law in laws)
        raise ValueError(f"There is no law {unknown[0]!r}. Use the number or the name of one: {listed}.")
    return tuple(law for law in laws if str(law.number) in wanted or law.name in wanted)
