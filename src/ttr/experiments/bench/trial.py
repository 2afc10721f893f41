"""One case: who takes part, whether they agree, and how long they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ttr.experiments.bench import machine
from ttr.experiments.bench.cases import Case
from ttr.experiments.bench.contestants import Contestant, Tensors
from ttr.experiments.bench.peak import PeakMemory
from ttr.experiments.bench.rounds import Clock, Rounds, measure
from ttr.experiments.bench.settings import BenchSettings
from ttr.laws.tolerances import error, tolerance

Timed = Callable[[], tuple[Tensor, dict[str, Tensor]]]


class Trial:
    """The cases of one run, one after the other; it remembers how long each contestant took, to stop those that would take too long."""

    def __init__(self, settings: BenchSettings, clock: Clock, peaks: PeakMemory | None, say: Callable[[str], None]) -> None:
        self.settings, self.clock, self.peaks, self.say = settings, clock, peaks, say
        self._seconds: dict[tuple[str, str], list[tuple[int, float]]] = {}

    def run(self, case: Case) -> dict[str, Any]:
        """The figures of a case, JSON-ready; the docstring of ``ttr.experiments.bench.results`` says which."""
        torch.set_num_threads(1)
        rows, calls = self._admit(case)
        told: dict[str, Any] = {"name": case.name, "family": case.family.name, "direction": case.direction, "curve": case.curve,
                                "shape": vars(case.shape), "flops": case.flops, "formula": case.family.formula, "rows": rows}
        told["passes"] = [self._time(case, calls, 1)] if calls else []
        if calls and self.settings.threads > 1 and Rounds.from_dict(told["passes"][0]).mostly_clean:
            told["passes"].append(self._time(case, calls, self.settings.threads))
        for row in rows:
            if row["status"] == "timed":
                self.say(f"{case.name}: {row['name']}, peak memory")
                row["peak"] = self.peaks and self.peaks.of(case, row["name"], self.settings.backends, self.settings.onednn)
                seconds = Rounds.from_dict(told["passes"][0]).spread(row["name"], "cpu")["median"]
                self._seconds.setdefault((case.curve, row["name"]), []).append((case.shape.time, seconds))
        return told

    def _time(self, case: Case, calls: Mapping[str, Timed], threads: int) -> dict[str, Any]:
        self.say(f"{case.name}: the machine's rates, {threads} thread{'s' * (threads > 1)}")
        rates = machine.rates(threads, self.clock)
        self.say(f"{case.name}: {len(calls)} contestants, {threads} thread{'s' * (threads > 1)}")
        try:
            return measure(calls, self.settings.rounds, threads, self.clock).to_dict() | {"rates": rates}
        finally:
            torch.set_num_threads(1)

    def _admit(self, case: Case) -> tuple[list[dict[str, Any]], dict[str, Timed]]:
        """Every contestant as a row that says whether it is timed and, if not, why; and the calls of those that are."""
        x = case.inputs()
        rows, calls, reference = [], {}, None
        for contestant in case.contestants(self.settings.backends, self.settings.onednn, x):
            self.say(f"{case.name}: {contestant.name}, its contract")
            status, why = self._refusal(case, contestant, x)
            if status == "timed":
                self.say(f"{case.name}: {contestant.name}, a first call")
                timed = contestant.timed(contestant.prepare(x), case.direction == "training")
                before = self.clock.cpu()
                outcome = timed()
                seconds = self.clock.cpu() - before
                if seconds > self.settings.limit:
                    self._seconds.setdefault((case.curve, contestant.name), []).append((case.shape.time, seconds))
                    status, why = "stopped", f"A call takes {seconds:.0f} s, longer than --limit {self.settings.limit:g}."
                elif contestant.compared:
                    reference = reference or (contestant.name, outcome)
                    why = disagreement(outcome, *reference)
                    status = "wrong" if why else status
            rows.append({"name": contestant.name, "side": contestant.side, "status": status, "why": why})
            if status == "timed":
                calls[contestant.name] = timed
        return rows, calls

    def _refusal(self, case: Case, contestant: Contestant, x: Tensors) -> tuple[str, str | None]:
        """The status of a contestant before it is run: "timed", or why not."""
        if why := contestant.missing(x):
            return "left out", why
        if why := contestant.broken():
            return "refused", why
        seconds = predicted(self._seconds.get((case.curve, contestant.name), []), case.shape.time)
        if seconds > self.settings.limit:
            return "stopped", f"A call would take about {seconds:.0f} s, longer than --limit {self.settings.limit:g}."
        return "timed", None


def disagreement(outcome: tuple[Tensor, Mapping[str, Tensor]], name: str, reference: tuple[Tensor, Mapping[str, Tensor]]) -> str | None:
    """In what an output or a gradient is not that of ``name``, as a sentence; None if all agree."""
    pairs = [("output", outcome[0], reference[0])]
    pairs += [(f"gradient of {leaf}", g, reference[1][leaf]) for leaf, g in outcome[1].items() if leaf in reference[1]]
    for what, ours, theirs in pairs:
        found, allowed = error(ours, theirs), tolerance(theirs.dtype)
        if not found <= allowed:
            return f"Its {what} differs from that of {name} by {found:.1e}, allowed are {allowed:.0e}: they do not compute the same."
    return None


def predicted(past: list[tuple[int, float]], time: int) -> float:
    """Seconds at a length, on from those of shorter ones: as they grew from the second last to the last, but at least in proportion."""
    if not past:
        return 0.0
    length, seconds = past[-1]
    power = 1.0
    if len(past) > 1 and past[-2][0] < length:
        power = max(1.0, math.log(seconds / past[-2][1]) / math.log(length / past[-2][0]))
    return seconds * (time / length) ** power
