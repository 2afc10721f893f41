"""Draws calls from a seed, runs them, counts the outcomes and shrinks every finding with hypothesis."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from hypothesis import HealthCheck, find, settings
from hypothesis.errors import NoSuchExample

from tests.fuzz.call import Call
from tests.fuzz.draw import calls
from tests.fuzz.play import Outcome, play
from tests.fuzz.workers import Workers

SHRINKING = 30
"""Seconds for shrinking one finding."""


@dataclass
class Report:
    """The number of calls with each outcome; for every kind of finding how often it occurred and its simplest
    call."""

    counts: Counter[str] = field(default_factory=Counter)
    found: dict[tuple[str, str], tuple[Call, Outcome]] = field(default_factory=dict)
    times: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __str__(self) -> str:
        return "\n\n".join([*map(self.describe, self.found), self.summary()])

    def describe(self, kind: tuple[str, str]) -> str:
        """A finding, and Python code that repeats it."""
        call, outcome = self.found[kind]
        return f"{outcome.kind}, {self.times[kind]} times: {outcome.words}\n{call.code()}"

    def summary(self) -> str:
        """The counts in a line."""
        return (
            f"{self.counts.total()} calls: "
            f"{', '.join(f'{count} {kind}' for kind, count in self.counts.most_common())}"
        )


def run(
    seed: int,
    count: int,
    processes: int,
    tell: Callable[[str], None] = print,
    play: Callable[[Call], Outcome] = play,
) -> Report:
    """Run ``count`` calls of a seed; ``tell`` is called with messages about the progress."""
    report, started = Report(), time.monotonic()
    tell(f"Seed {seed}: drawing {count} calls")
    drawn = draw(seed, count)
    with Workers(processes, play) as workers:
        for number, (call, outcome) in enumerate(workers.play(drawn), 1):
            report.counts[outcome.kind] += 1
            if outcome.found:
                kind = outcome.kind, outcome.place
                report.times[kind] += 1
                if kind not in report.found:
                    tell(f"Found in call {number}: {outcome.kind}. {outcome.words}")
                    report.found[kind] = call, outcome
            if number % max(1, len(drawn) // 20) == 0:
                tell(f"{time.monotonic() - started:4.0f} s  {report.summary()}")
        for number, (kind, (call, outcome)) in enumerate(report.found.items(), 1):
            report.found[kind] = shrink(seed, count, call, outcome, workers)
            tell(f"\n{number} of {len(report.found)}: {report.describe(kind)}")
    return report


def search(seed: int, count: int, wanted: Callable[[Call], object]) -> Call | None:
    """The simplest call for which ``wanted`` is true, found from the first such among ``count`` calls of a
    seed. Up to that one, the calls depend on the seed only."""
    drawn = settings(
        max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    try:
        return find(calls(), wanted, settings=drawn, random=Random(seed))
    except NoSuchExample:
        return None


def draw(seed: int, count: int) -> list[Call]:
    """The calls of a seed."""
    found: list[Call] = []
    search(seed, count, found.append)
    return found


def shrink(seed: int, count: int, call: Call, outcome: Outcome, workers: Workers) -> tuple[Call, Outcome]:
    """The simplest call with the same outcome that hypothesis reaches from this one."""
    played, ends = {call: workers.play_one(call)}, time.monotonic() + SHRINKING
    if not played[call].like(outcome):
        return call, Outcome(
            outcome.kind,
            f"{outcome.words} (by itself: {played[call].kind}; calls before it matter)",
            outcome.place,
        )
    reached = False

    def same(candidate: Call) -> bool:
        nonlocal reached
        reached = reached or candidate == call
        if reached and candidate not in played and time.monotonic() < ends:
            played[candidate] = workers.play_one(candidate)
        return candidate in played and played[candidate].like(outcome)

    simplest = search(seed, count, same) or call
    return simplest, played[simplest]
