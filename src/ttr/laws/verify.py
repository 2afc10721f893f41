"""``ttr.verify``: the laws for one problem, on this machine."""

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
from ttr.laws.law import Law, Measurement, Setting, laws_named
from ttr.prepare import check_device, check_problem
from ttr.problem import Problem
from ttr.values import FLOATING


@dataclass(frozen=True)
class Finding:
    """The result of one law on one engine: the measurement nearest to its bound, or the engine's refusal, or
    an exception."""

    engine: str
    law: str
    number: int
    worst: Measurement | None
    failed: tuple[Measurement, ...] = ()
    refusal: str | None = None
    exception: str | None = None
    excuse: str | None = None
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.failed and self.exception is None

    @property
    def shown(self) -> Measurement | None:
        """The measurement to show: the first that breaks its bound, else the nearest to it; None if there is
        none."""
        return self.failed[0] if self.failed else self.worst

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
            "passed": self.passed,
            "refusal": self.refusal,
            "exception": self.exception,
            "seconds": round(self.seconds, 3),
        } | measured


@dataclass(frozen=True)
class Report:
    """The results of the laws; true if all have passed. ``str`` gives a table of the error per engine and
    law."""

    problem: Problem
    device: str
    dtype: torch.dtype
    findings: tuple[Finding, ...]

    def __bool__(self) -> bool:
        return bool(self.ran) and all(finding.passed for finding in self.ran)

    @property
    def ran(self) -> tuple[Finding, ...]:
        """The findings of engines that do not refuse."""
        return tuple(finding for finding in self.findings if finding.refusal is None)

    @property
    def seconds(self) -> float:
        return sum(finding.seconds for finding in self.findings)

    def by_law(self) -> tuple[Finding, ...]:
        """For every law the finding of the worst engine."""
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
            "passed": bool(self),
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
                    f"{'passed' if f.passed else 'FAILED'} {describe(f)}"
                )
        return "\n".join(lines)


def describe(finding: Finding) -> str:
    """The finding in a few words: the error nearest to its bound, or what went wrong."""
    if finding.exception is not None:
        return f"raised {finding.exception.partition(chr(10))[0]}"
    m = finding.shown
    if m is None:
        return "does not apply" if finding.excuse is None else f"does not apply: {finding.excuse}"
    if finding.passed and not m.bound:
        return f"to the last bit, {m.quantity}"
    return f"{m.error:.1e} {'<=' if finding.passed else '>'} {m.bound:.0e}, {m.quantity}"


def verify(
    problem: object,
    device: str = "cpu",
    dtype: torch.dtype = torch.float64,
    *,
    engines: Iterable[str] | None = None,
    laws: Iterable[int | str] | None = None,
    slow: bool = True,
    progress: Callable[[str, str], None] | None = None,
    done: Callable[[], None] | None = None,
) -> Report:
    """Check every engine that runs the problem against the laws, gradients included, on this machine.

    Args:
        problem: a Problem, an Architecture (anything with a ``problem``), or the name of a catalogue entry.
        device, dtype: where and in what to run the fast side; the oracle is always float64.
        engines: names of the engines to check; None for all.
        laws: numbers or names of the laws to check; None for all.
        slow: include the laws that take seconds.
        progress, done: called with the names of the engine and the law before a law, and after it.

    Raises:
        KeyError: if a name is not in the catalogue.
        ValueError: if ``problem`` is not a problem, or an engine, a law, the device or the dtype is unknown.
    """
    if isinstance(problem, str):
        from ttr import catalogue

        problem = catalogue[problem]
    problem, findings = getattr(problem, "problem", problem), []
    check_problem(problem)
    check_device(device)
    if dtype not in FLOATING:
        raise ValueError(
            f"The laws are checked in a floating-point type, not in {dtype}. Use torch.float64 "
            "or torch.float32."
        )
    chosen = _laws(laws, slow)
    for engine in _engines(engines):
        reason = refusal(engine, problem)
        if reason is not None:
            findings.append(Finding(engine.name, "", 0, None, refusal=reason))
            continue
        for law in chosen:
            if progress is not None:
                progress(engine.name, law.name)
            setting = Setting(engine if law.slow else engine.small(), device, dtype)
            findings.append(_try(law, problem, setting))
            if done is not None:
                done()
    return Report(problem, device, dtype, tuple(findings))


def _engines(names: Iterable[str] | None) -> tuple[Engine, ...]:
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


def _laws(names: Iterable[int | str] | None, slow: bool) -> tuple[Law, ...]:
    """The laws of those names, or all for None; the slow ones only with ``slow``."""
    return tuple(law for law in laws_named(names, LAWS) if slow or not law.slow)


def count(
    problem: object,
    *,
    engines: Iterable[str] | None = None,
    laws: Iterable[int | str] | None = None,
    slow: bool = True,
) -> int:
    """How many laws ``verify`` checks, over all engines that run a Problem or an Architecture."""
    problem = getattr(problem, "problem", problem)
    return sum(refusal(engine, problem) is None for engine in _engines(engines)) * len(_laws(laws, slow))


def _badness(finding: Finding) -> tuple[bool, float]:
    """A sort key, greater for worse findings: failed above passed, then by the share of the bound that is
    used."""
    if finding.shown is None:
        return not finding.passed, -1.0
    return (
        not finding.passed,
        finding.shown.error / finding.shown.bound if finding.shown.bound else finding.shown.error,
    )


def _try(law: Law, problem: Problem, setting: Setting) -> Finding:
    started = time.perf_counter()
    finding = Finding(setting.engine.name, law.name, law.number, None)
    try:
        measurements = law(problem, setting)
    except Exception as failure:  # reported as failed with its message: verify must not stop at the first
        return dataclasses.replace(finding, exception=f"{type(failure).__name__}: {failure}")
    finding = dataclasses.replace(finding, excuse=law.excuses(problem))
    worst = max(measurements, key=lambda m: m.error / m.bound if m.bound else m.error, default=None)
    failed = tuple(m for m in measurements if not m.passed)
    return dataclasses.replace(finding, worst=worst, failed=failed, seconds=time.perf_counter() - started)
