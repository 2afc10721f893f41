"""One case: who takes part, whether they agree, and how long they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

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

ROOM = 0.5
"""The share of the memory that is free which a call may take."""


class Past(NamedTuple):
    """What a contestant took at a shorter length."""

    time: int
    seconds: float
    bytes: float


class Trial:
    """The cases of one run, one after the other; it remembers what each contestant took, to stop those that would take too much."""

    def __init__(self, settings: BenchSettings, clock: Clock, peaks: PeakMemory | None, say: Callable[[str], None]) -> None:
        self.settings, self.clock, self.peaks, self.say = settings, clock, peaks, say
        self._past: dict[tuple[str, str], list[Past]] = {}

    def run(self, case: Case) -> dict[str, Any]:
        """The figures of a case, JSON-ready; the docstring of ``ttr.experiments.bench.results`` says which."""
        torch.set_num_threads(1)
        machine.settle_allocator()
        x = case.inputs()
        rows, calls, reference = [], {}, None
        for contestant in case.contestants(self.settings.backends, self.settings.onednn, x):
            row, timed, outcome = self._admit(case, contestant, x)
            if timed is not None and contestant.compared:
                reference = reference or (contestant.name, outcome)
                if why := disagreement(outcome, *reference):
                    row, timed = row | {"status": "wrong", "why": why}, None
            rows.append(row)
            if timed is not None:
                calls[contestant.name] = timed
        told: dict[str, Any] = {"name": case.name, "family": case.family.name, "direction": case.direction, "curve": case.curve,
                                "shape": vars(case.shape), "flops": case.flops, "formula": case.family.formula, "rows": rows, "passes": []}
        if calls:
            told["passes"].append(self._time(case, calls, 1))
            if self.settings.threads > 1 and Rounds.from_dict(told["passes"][0]).mostly_clean:
                told["passes"].append(self._time(case, calls, self.settings.threads))
        self.remember(told)
        return told

    def remember(self, told: Mapping[str, Any]) -> None:
        """Note what the contestants of a finished case took."""
        for row in told["rows"]:
            if row["seconds"] is not None:
                past = Past(told["shape"]["time"], row["seconds"], float(row["peak"]["bytes"]) if row["peak"] else 0.0)
                self._past.setdefault((told["curve"], row["name"]), []).append(past)

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
            return measure(calls, self.settings.rounds, threads, self.clock, done).to_dict() | {"rates": rates}
        finally:
            torch.set_num_threads(1)

    def _admit(self, case: Case, contestant: Contestant, x: Tensors) -> tuple[dict[str, Any], Timed | None, Outcome | None]:
        """The contestant's row, which says whether it is timed and, if not, why; if it is, what to time, and what that gave."""
        row = {"name": contestant.name, "side": contestant.side, "status": "timed", "why": None, "seconds": None, "peak": None}
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
        if size > ROOM * free_memory():
            why = f"A call would take about {readable(size)} of memory, and {readable(free_memory())} are free."
            return row | {"status": "stopped", "why": why, "seconds": seconds}, None, None
        if self.peaks is not None:
            self.say(f"{case.name}: {contestant.name}, its memory")
            row["peak"] = self.peaks.of(case, contestant.name, self.settings.backends, self.settings.onednn)
        self.say(f"{case.name}: {contestant.name}, a first call")
        timed = contestant.timed(contestant.prepare(x), case.direction == "training")
        before = self.clock.cpu()
        outcome = timed()
        row["seconds"] = self.clock.cpu() - before
        if row["seconds"] > limit:
            return row | {"status": "stopped", "why": f"A call takes {row['seconds']:.0f} s, longer than --limit {limit:g}."}, None, None
        return row, timed, outcome


def disagreement(outcome: Outcome, name: str, reference: Outcome) -> str | None:
    """In what an output or a gradient is not that of ``name``, as a sentence; None if all agree."""
    pairs = [("output", outcome[0], reference[0])]
    pairs += [(f"gradient of {leaf}", g, reference[1][leaf]) for leaf, g in outcome[1].items() if leaf in reference[1]]
    for what, ours, theirs in pairs:
        found, allowed = error(ours, theirs), tolerance(theirs.dtype)
        if not found <= allowed:
            return f"Its {what} differs from that of {name} by {found:.1e}, allowed are {allowed:.0e}: they do not compute the same."
    return None


def predicted(past: list[Past], time: int) -> tuple[float, float]:
    """Seconds and bytes at a length: as they grew from the second last of the shorter ones to the last, but at least in proportion to the
    length and at most to its square."""
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
    """Bytes that a new process could take; infinite where the system does not say."""
    try:
        line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return math.inf
    return 1024.0 * int(line.split()[1])
