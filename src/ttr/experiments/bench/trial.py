"""The run of one case: which contestants run, whether they agree, and how long they take."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import ttr
from ttr.experiments.bench import machine
from ttr.experiments.bench.cases import Case
from ttr.experiments.bench.contestants import Contestant, Tensors
from ttr.experiments.bench.peak import PeakMemory
from ttr.experiments.bench.rounds import Clock, Rounds, measure
from ttr.experiments.bench.settings import BenchSettings
from ttr.experiments.picture import readable
from ttr.laws.tolerances import error, tolerance

Outcome = tuple[Tensor, Mapping[str, Tensor]]
Timed = Callable[[], Outcome]

MEMORY_SHARE = 0.5
"""The share of the free memory that a call may take."""

FLOAT64 = "float64"
"""The name of the call in float64 among the contestants."""

SLOWER = 4.0
"""The least factor by which a call in float64 is expected to take longer than in float32: it moves twice as
many bytes, in vectors of half as many numbers, and some kernels support only float32."""

CARELESS = 10.0
"""A peer counts as computing the same function if its error is at most this factor above our tolerance. Its
error is reported next to its time."""


class Past(NamedTuple):
    """The time and memory of a contestant at a shorter length."""

    time: int
    seconds: float
    bytes: float


class Trial:
    """Runs the cases of one benchmark and records the time and memory of each contestant, to stop those that
    would exceed the limits."""

    def __init__(
        self, settings: BenchSettings, clock: Clock, peaks: PeakMemory | None, say: Callable[[str], None]
    ) -> None:
        self.settings, self.clock, self.peaks, self.say = settings, clock, peaks, say
        self._past: dict[tuple[str, str], list[Past]] = {}

    def run(self, case: Case) -> dict[str, Any]:
        """The figures of a case, JSON-ready, as described in ``ttr.experiments.bench.results``."""
        torch.set_num_threads(1)
        machine.settle_allocator()
        rows, float64, calls = self._admit_all(case)
        record: dict[str, Any] = {
            "name": case.name,
            "family": case.family.name,
            "direction": case.direction,
            "curve": case.curve,
            "shape": vars(case.shape),
            "flops": case.flops,
            "formula": case.family.formula,
            "rows": rows,
            "float64": float64,
            "passes": [],
        }
        if calls:
            record["passes"].append(self._time(case, calls, 1))
            if self.settings.threads > 1 and Rounds.from_dict(record["passes"][0]).mostly_clean:
                record["passes"].append(self._time(case, calls, self.settings.threads))
        self.remember(record)
        return record

    def remember(self, record: Mapping[str, Any]) -> None:
        """Record the time and memory of the contestants of a finished case."""
        for row in (*record["rows"], *filter(None, [record["float64"]])):
            if row["seconds"] is not None:
                past = Past(
                    record["shape"]["time"],
                    row["seconds"],
                    float(row["peak"]["bytes"]) if row["peak"] else 0.0,
                )
                self._past.setdefault((record["curve"], row["name"]), []).append(past)

    def _time(self, case: Case, calls: Mapping[str, Timed], threads: int) -> dict[str, Any]:
        on = f"{case.name} on {threads} thread{'s' * (threads > 1)}"
        self.say(f"{on}: the machine's rates")
        rates = machine.rates(threads, self.clock)
        taken = 0

        def done() -> None:
            nonlocal taken
            taken += 1
            self.say(f"{on}: round {taken // len(calls) + 1}")

        try:
            return measure(calls, self.settings.rounds, threads, self.clock, done).to_dict() | {
                "rates": rates
            }
        finally:
            torch.set_num_threads(1)

    def _admit_all(self, case: Case) -> tuple[list[dict[str, Any]], dict[str, Any] | None, dict[str, Timed]]:
        """All rows, that of the call in float64, and the calls to time, by name. The results of the first
        calls are compared and dropped."""
        x = case.inputs()
        rows, calls, reference, float64, exact = [], {}, None, None, None
        for contestant in case.contestants(self.settings.engines, self.settings.onednn, x):
            row, timed, outcome = self._admit(case, contestant, x, self.peaks)
            if timed is not None and contestant.compared:
                if reference is None:
                    reference = contestant.name, outcome
                    float64, exact = self._in_float64(case, x, row)
                row["error"] = (
                    None
                    if exact is None
                    else {what: finite(found) for what, found in differences(outcome, exact).items()}
                )
                if why := disagreement(
                    outcome, *reference, slack=1.0 if contestant.side == "ours" else CARELESS
                ):
                    row, timed = row | {"status": "wrong", "why": why}, None
            if timed is not None:
                row["solves"] = solves(timed) if contestant.side == "ours" else None
                calls[contestant.name] = timed
            rows.append(row)
        return rows, float64, calls

    def _in_float64(
        self, case: Case, x: Tensors, like: Mapping[str, Any]
    ) -> tuple[dict[str, Any], Outcome | None]:
        """The reference of all errors: the same call on the same numbers by the first of our engines that
        supports float64. The oracle runs token by token and would take minutes; equality with it in float64
        is a law that the engine must pass here too.

        Args:
            like: the row of a contestant that has run in float32, from which time and memory are estimated;
                time also from earlier calls in float64.
        """
        promoted = {
            name: tensor.detach().double().requires_grad_(tensor.requires_grad) for name, tensor in x.items()
        }
        ours = case.family.ours(case.direction, (), promoted)
        found = next(
            (each for each in ours if each.missing(promoted) is None and each.broken() is None), None
        )
        if found is None:
            return {
                "name": FLOAT64,
                "of": None,
                "status": "left out",
                "why": "None of our engines runs float64.",
                "seconds": None,
                "peak": None,
            }, None
        past = self._past.setdefault((case.curve, FLOAT64), [])
        seconds = max(predicted(past, case.shape.time)[0], SLOWER * like["seconds"])
        past.append(Past(case.shape.time, seconds, 2.0 * like["peak"]["bytes"] if like["peak"] else 0.0))
        row, _, outcome = self._admit(case, dataclasses.replace(found, name=FLOAT64), promoted, None)
        return row | {"of": found.name}, outcome

    def _admit(
        self, case: Case, contestant: Contestant, x: Tensors, peaks: PeakMemory | None
    ) -> tuple[dict[str, Any], Timed | None, Outcome | None]:
        """The contestant's row, with the reason if it is not timed; if it is, also the call to time and its
        first result."""
        row = {
            "name": contestant.name,
            "side": contestant.side,
            "status": "timed",
            "why": None,
            "seconds": None,
            "peak": None,
            "error": None,
            "solves": None,
        }
        self.say(f"{case.name}: {contestant.name}, its contract")
        if why := contestant.missing(x):
            return row | {"status": "left out", "why": why}, None, None
        if why := contestant.broken():
            return row | {"status": "refused", "why": why}, None, None
        limit = self.settings.limit
        seconds, size = predicted(self._past.get((case.curve, contestant.name), []), case.shape.time)
        if seconds > limit:
            why = f"A call would take about {seconds:.0f} s, longer than --limit {limit:g}."
            return row | {"status": "stopped", "why": why, "seconds": seconds}, None, None
        if size > MEMORY_SHARE * free_memory():
            why = (
                f"A call would take about {readable(size)} of memory, and {readable(free_memory())} are free."
            )
            return row | {"status": "stopped", "why": why, "seconds": seconds}, None, None
        if peaks is not None:
            self.say(f"{case.name}: {contestant.name}, its memory")
            row["peak"] = peaks.of(case, contestant.name, self.settings.engines, self.settings.onednn)
        self.say(f"{case.name}: {contestant.name}, a first call")
        timed = contestant.timed(contestant.prepare(x), case.direction == "training")
        before = self.clock.cpu()
        outcome = timed()
        row["seconds"] = self.clock.cpu() - before
        if row["seconds"] > limit:
            return (
                row
                | {
                    "status": "stopped",
                    "why": f"A call takes {row['seconds']:.0f} s, longer than --limit {limit:g}.",
                },
                None,
                None,
            )
        return row, timed, outcome


def differences(outcome: Outcome, reference: Outcome) -> dict[str, float]:
    """The errors, as the laws measure them, of the output and of the gradients that both have, by name."""
    found = {"output": error(outcome[0], reference[0])}
    return found | {
        f"gradient of {leaf}": error(g, reference[1][leaf])
        for leaf, g in outcome[1].items()
        if leaf in reference[1]
    }


def disagreement(outcome: Outcome, name: str, reference: Outcome, slack: float = 1.0) -> str | None:
    """A sentence about the output or gradient that differs from that of ``name`` by more than ``slack`` times
    the tolerance of the laws; None if all agree."""
    allowed = slack * tolerance(reference[0].dtype)
    for what, found in differences(outcome, reference).items():
        if not found <= allowed:
            return (
                f"Its {what} differs from that of {name} by {found:.1e}, allowed are {allowed:.0e}: they "
                "do not compute the same."
            )
    return None


def finite(number: float) -> float | None:
    """The number as JSON can hold it: None if it is not finite."""
    return number if math.isfinite(number) else None


def solves(call: Timed) -> dict[str, Any] | None:
    """The diagnostics of the solvers of one call and its derivative; None if there is no solve."""
    with ttr.diagnostics() as diagnostics:
        call()
    found = [each for each in diagnostics.records if "iterations" in each]
    if not found:
        return None
    return {
        "solver": ", ".join(dict.fromkeys(each["solver"] for each in found)),
        "iterations": max(each["iterations"] for each in found),
        "residual": finite(max(float(each["residual"]) for each in found)),
        "direct": sum(each["direct_rows"] for each in found) / max(sum(each["rows"] for each in found), 1),
    }


def predicted(past: list[Past], time: int) -> tuple[float, float]:
    """Estimated seconds and bytes at a length, extrapolated from the two longest measured lengths with a
    growth between linear and quadratic."""
    if not past:
        return 0.0, 0.0
    last = past[-1]

    def grown(now: float, before: float) -> float:
        if not (len(past) > 1 and 0 < before and past[-2].time < last.time):
            return now * time / last.time
        power = math.log(max(now, before) / before) / math.log(last.time / past[-2].time)
        return now * (time / last.time) ** min(max(power, 1.0), 2.0)

    before = past[-2] if len(past) > 1 else last
    return grown(last.seconds, before.seconds), grown(last.bytes, before.bytes)


def free_memory() -> float:
    """Bytes available to a new process; infinite if the system does not report it."""
    try:
        line = next(
            line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable")
        )
    except (OSError, StopIteration):
        return math.inf
    return 1024.0 * int(line.split()[1])
