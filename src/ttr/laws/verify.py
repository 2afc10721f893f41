"""The laws on this machine, for one problem: what ``ttr.verify`` and ``ttr verify`` run."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ttr.dispatch import refusal
from ttr.engines import ENGINES
from ttr.engines.engine import Engine
from ttr.laws import LAWS
from ttr.laws.law import Law, Measurement, Setting
from ttr.prepare import check_device, check_problem
from ttr.problem import Problem
from ttr.values import FLOATING


@dataclass(frozen=True)
class Finding:
    """One law on one engine: the measurement nearest to its bound, or the engine's refusal, or an
    exception."""

    engine: str
    law: str
    number: int
    worst: Measurement | None
    broken: tuple[Measurement, ...] = ()
    refusal: str | None = None
    exception: str | None = None
    excuse: str | None = None
    seconds: float = 0.0

    @property
    def kept(self) -> bool:
        return not self.broken and self.exception is None

    @property
    def shown(self) -> Measurement | None:
        """The measurement to show: the first that breaks its bound, else the nearest to it; None if there is
        none."""
        return self.broken[0] if self.broken else self.worst

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description; an infinite error is written as a string."""
        m = self.shown
        measured = (
            {}
            if m is None
            else {
                "quantity": m.quantity,
                "error": m.error if math.isfinite(m.error) else str(m.error),
                "bound": m.bound,
            }
        )
        return {
            "engine": self.engine,
            "number": self.number,
            "law": self.law,
            "kept": self.kept,
            "refusal": self.refusal,
            "exception": self.exception,
            "seconds": round(self.seconds, 3),
        } | measured


@dataclass(frozen=True)
class Report:
    """What the laws found; true if all are kept. ``str`` gives a table of the error per engine and law."""

    problem: Problem
    device: str
    dtype: torch.dtype
    findings: tuple[Finding, ...]

    def __bool__(self) -> bool:
        return all(finding.kept for finding in self.findings)

    @property
    def ran(self) -> tuple[Finding, ...]:
        """The findings of engines that do not refuse."""
        return tuple(finding for finding in self.findings if finding.refusal is None)

    @property
    def seconds(self) -> float:
        return sum(finding.seconds for finding in self.findings)

    def by_law(self) -> tuple[Finding, ...]:
        """Of every law the finding of the engine that comes out worst."""
        worst: dict[str, Finding] = {}
        for finding in self.ran:
            if finding.law not in worst or _badness(finding) > _badness(worst[finding.law]):
                worst[finding.law] = finding
        return tuple(worst.values())

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description, every finding included."""
        return {
            "problem": self.problem.to_dict(),
            "device": self.device,
            "dtype": str(self.dtype).removeprefix("torch."),
            "kept": bool(self),
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def __str__(self) -> str:
        lines = [f"{self.problem!r} on {self.device} in {str(self.dtype).removeprefix('torch.')}"]
        for f in self.findings:
            if f.refusal is not None:
                lines.append(f"  {f.engine:20s} refuses: {f.refusal}")
            else:
                lines.append(
                    f"  {f.engine:20s} {f.number:2d} {f.law:36s} "
                    f"{'kept  ' if f.kept else 'BROKEN'} {describe(f)}"
                )
        return "\n".join(lines)


def describe(finding: Finding) -> str:
    """The finding in a few words: the error nearest to its bound, or what went wrong."""
    if finding.exception is not None:
        return f"raised {finding.exception.partition(chr(10))[0]}"
    m = finding.shown
    if m is None:
        return "does not apply" if finding.excuse is None else f"does not apply: {finding.excuse}"
    if finding.kept and not m.bound:
        return f"to the last bit, {m.quantity}"
    return f"{m.error:.1e} {'<=' if finding.kept else '>'} {m.bound:.0e}, {m.quantity}"


def verify(
    problem: object,
    device: str = "cpu",
    dtype: torch.dtype = torch.float64,
    *,
    engines: Iterable[str] | None = None,
    slow: bool = True,
    progress: Callable[[str, str], None] | None = None,
    done: Callable[[], None] | None = None,
) -> Report:
    """Check every engine that runs the problem against the laws, gradients included, on this machine.

    Args:
        problem: a Problem, an Architecture (anything with a ``problem``), or the name of a catalogue entry.
        device, dtype: where and in what to run the fast side; the oracle is always float64.
        engines: names of those to try; None for all.
        slow: include the laws that take seconds.
        progress, done: called with the engine and the law that begin, and when they have ended.

    Raises:
        KeyError: if a name is not in the catalogue.
        ValueError: if the problem is none, an engine is unknown, or device or dtype are.
    """
    if isinstance(problem, str):
        from ttr import catalogue

        problem = catalogue[problem]
    problem, findings = getattr(problem, "problem", problem), []
    check_problem(problem)
    check_device(device)
    if dtype not in FLOATING:
        raise ValueError(
            f"The laws are tried in a floating-point type, not in {dtype}. Use torch.float64 "
            "or torch.float32."
        )
    for engine in _chosen(engines):
        reason = refusal(engine, problem)
        if reason is not None:
            findings.append(Finding(engine.name, "", 0, None, refusal=reason))
            continue
        for law in LAWS:
            if law.slow and not slow:
                continue
            if progress is not None:
                progress(engine.name, law.name)
            setting = Setting(engine if law.slow else engine.small(), device, dtype)
            findings.append(_try(law, problem, setting))
            if done is not None:
                done()
    return Report(problem, device, dtype, tuple(findings))


def _chosen(names: Iterable[str] | None) -> tuple[Engine, ...]:
    """The engines of those names, in their own order; all of them for None."""
    if names is None:
        return ENGINES
    known = [engine.name for engine in ENGINES]
    names = list(names) if isinstance(names, Iterable) and not isinstance(names, str) else [names]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"There is no engine {unknown[0]!r}. Use a list of some of {', '.join(known)}, or None for all."
        )
    return tuple(engine for engine in ENGINES if engine.name in names)


def count(problem: object, *, slow: bool = True) -> int:
    """How many laws ``verify`` tries on all engines that run a Problem or an Architecture."""
    willing = sum(refusal(engine, getattr(problem, "problem", problem)) is None for engine in ENGINES)
    return willing * sum(slow or not law.slow for law in LAWS)


def _badness(finding: Finding) -> tuple[bool, float]:
    """Greater for what is worse: broken before kept, then by the share of the bound that is used."""
    if finding.shown is None:
        return not finding.kept, -1.0
    return (
        not finding.kept,
        finding.shown.error / finding.shown.bound if finding.shown.bound else finding.shown.error,
    )


def _try(law: Law, problem: Problem, setting: Setting) -> Finding:
    started = time.perf_counter()
    finding = Finding(setting.engine.name, law.name, law.number, None)
    try:
        measurements = law(problem, setting)
    except Exception as failure:  # reported as broken, with its words: verify must not stop at the first
        return dataclasses.replace(finding, exception=f"{type(failure).__name__}: {failure}")
    finding = dataclasses.replace(finding, excuse=law.excuses(problem))
    worst = max(measurements, key=lambda m: m.error / m.bound if m.bound else m.error, default=None)
    broken = tuple(m for m in measurements if not m.kept)
    return dataclasses.replace(finding, worst=worst, broken=broken, seconds=time.perf_counter() - started)
