"""The laws on this machine, for one problem: what ``ttr.verify`` and ``ttr verify`` run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from ttr.backends import BACKENDS
from ttr.laws import LAWS
from ttr.laws.law import Law, Measurement, Setting
from ttr.problem import Problem


@dataclass(frozen=True)
class Finding:
    """One law on one backend: the measurement nearest to its bound, or the backend's refusal, or an exception."""

    backend: str
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


@dataclass(frozen=True)
class Report:
    """What the laws found; true if all are kept. ``str`` gives a table of the error per backend and law."""

    problem: Problem
    device: str
    dtype: torch.dtype
    findings: tuple[Finding, ...]

    def __bool__(self) -> bool:
        return all(finding.kept for finding in self.findings)

    def __str__(self) -> str:
        lines = [f"{self.problem!r} on {self.device} in {str(self.dtype).removeprefix('torch.')}"]
        for f in self.findings:
            if f.refusal is not None:
                lines.append(f"  {f.backend:20s} refuses: {f.refusal}")
            else:
                lines.append(f"  {f.backend:20s} {f.number:2d} {f.law:36s} {'kept  ' if f.kept else 'BROKEN'} {describe(f)}")
        return "\n".join(lines)


def describe(finding: Finding) -> str:
    """The finding in a few words: the error nearest to its bound, or what went wrong."""
    if finding.exception is not None:
        return f"raised {finding.exception}"
    if finding.worst is None:
        return "does not apply" if finding.excuse is None else f"does not apply: {finding.excuse}"
    m = finding.broken[0] if finding.broken else finding.worst
    return f"{m.error:.1e} {'<=' if finding.kept else '>'} {m.bound:.0e}, {m.quantity}"


def verify(problem: object, device: str = "cpu", dtype: torch.dtype = torch.float64, *, backends: Iterable[str] | None = None,
           slow: bool = True, progress: Callable[[str, str], None] | None = None) -> Report:
    """Check every backend that runs the problem against the laws, gradients included, on this machine.

    Args:
        problem: a Problem, an Architecture (anything with a ``problem``), or the name of a catalogue entry.
        device, dtype: where and in what to run the fast side; the oracle is always float64.
        backends: names of those to try; None for all.
        slow: include the laws that take seconds.
        progress: called with the backend and the law that begin.

    Raises:
        KeyError: if a name is not in the catalogue.
    """
    if isinstance(problem, str):
        from ttr import catalogue

        problem = catalogue[problem]
    problem = getattr(problem, "problem", problem)
    findings = []
    for backend in BACKENDS:
        if backends is not None and backend.name not in backends:
            continue
        reason = backend.refuses(problem)
        if reason is not None:
            findings.append(Finding(backend.name, "", 0, None, refusal=reason))
            continue
        for law in LAWS:
            if law.slow and not slow:
                continue
            if progress is not None:
                progress(backend.name, law.name)
            setting = Setting(backend if law.slow else backend.small(), device, dtype)
            findings.append(_try(law, problem, setting))
    return Report(problem, device, dtype, tuple(findings))


def _try(law: Law, problem: Problem, setting: Setting) -> Finding:
    started = time.perf_counter()
    finding = Finding(setting.backend.name, law.name, law.number, None)
    try:
        measurements = law(problem, setting)
    except Exception as failure:  # reported as broken, with its words: verify must not stop at the first
        return dataclasses.replace(finding, exception=f"{type(failure).__name__}: {failure}")
    finding = dataclasses.replace(finding, excuse=law.excuses(problem))
    worst = max(measurements, key=lambda m: m.error / m.bound if m.bound else m.error, default=None)
    broken = tuple(m for m in measurements if not m.kept)
    return dataclasses.replace(finding, worst=worst, broken=broken, seconds=time.perf_counter() - started)
