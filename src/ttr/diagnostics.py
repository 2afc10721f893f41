"""Diagnostics that solvers report without changing what a call returns: residuals and iterations, or losses
and norms of the weights."""

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
    """The records of the calls inside the block, oldest first: dicts such as {"solver", "residual",
    "iterations"}; for networks one per training step, {"solver", "loss", "norms", "pairs"}, all [B,H], norms
    by the name of the weights (see ``ttr.engines.torch.networks``)."""

    records: list[dict[str, Any]] = field(default_factory=list)


@contextlib.contextmanager
def diagnostics() -> Iterator[Diagnostics]:
    """Collect what the solvers of the calls inside the block report: ``with ttr.diagnostics() as d: ...;
    d.records``."""
    collected = Diagnostics()
    token = _current.set(collected)
    try:
        yield collected
    finally:
        _current.reset(token)


def collecting() -> bool:
    """Whether diagnostics are being collected; check this before computing a costly fact for ``record``."""
    return not torch.compiler.is_compiling() and _current.get() is not None


def record(**facts: Any) -> None:
    """Add a record of a solve, if diagnostics are being collected."""
    if collecting():
        _current.get().records.append(facts)
