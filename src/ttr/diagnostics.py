"""What solvers tell about themselves: residuals and iterations, without changing what a call returns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch

_current: ContextVar[Diagnostics | None] = ContextVar("ttr_diagnostics", default=None)


@dataclass
class Diagnostics:
    """The records of the calls made inside the block, oldest first: dicts such as {"solver", "residual", "iterations"}."""

    records: list[dict[str, Any]] = field(default_factory=list)


@contextlib.contextmanager
def diagnostics() -> Iterator[Diagnostics]:
    """Collect what the solvers of the calls inside the block report: ``with ttr.diagnostics() as d: ...; d.records``."""
    collected = Diagnostics()
    token = _current.set(collected)
    try:
        yield collected
    finally:
        _current.reset(token)


def record(**facts: Any) -> None:
    """Note facts about a solve, if anyone listens."""
    if torch.compiler.is_compiling():
        return
    collected = _current.get()
    if collected is not None:
        collected.records.append(facts)
