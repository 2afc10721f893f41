"""Rounds: each runs every contestant once, in a rotating order, so that disturbances affect all of them
alike."""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

LEAST_SECONDS = 0.03
"""The least duration of a sample, for which short calls are repeated: the kernel counts the time of other
processes in hundredths of a second."""

OTHERS_ALLOWED = 0.1
"""A round is disturbed if other processes used more than this share of one core while it ran."""

OWN_REQUIRED = 0.9
"""A round is also disturbed if a single thread of ours got less than this share of a core."""


@runtime_checkable
class Clock(Protocol):
    """Counters in seconds: CPU time of this process, elapsed time, and CPU time of other processes (None if
    unknown)."""

    def cpu(self) -> float: ...

    def wall(self) -> float: ...

    def others(self) -> float | None: ...


class SystemClock:
    """The clock of this machine; the time of other processes is the busy time that Linux counts minus our
    own."""

    def cpu(self) -> float:
        return time.process_time()

    def wall(self) -> float:
        return time.perf_counter()

    def others(self) -> float | None:
        try:
            user, nice, system, _, _, irq, softirq, steal = map(
                int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
            )
        except (OSError, ValueError):
            return None
        own = os.times()
        return (
            (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - own.user - own.system
        )


@dataclass(frozen=True)
class Sample:
    """Seconds per call: CPU time of the process, and elapsed time."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Round:
    """One sample of every contestant, and the share of one core that other processes used meanwhile."""

    samples: Mapping[str, Sample]
    others: float | None
    clean: bool


@dataclass(frozen=True)
class Rounds:
    """The measurements with a given number of threads."""

    threads: int
    rounds: tuple[Round, ...]

    @property
    def clean(self) -> tuple[Round, ...]:
        return tuple(r for r in self.rounds if r.clean)

    @property
    def mostly_clean(self) -> bool:
        return 2 * len(self.clean) > len(self.rounds)

    @property
    def used(self) -> tuple[Round, ...]:
        """The rounds used for figures: the clean ones, or all if most were disturbed, in which case only CPU
        times are usable."""
        return self.clean if self.mostly_clean else self.rounds

    def spread(self, name: str, clock: str) -> dict[str, float]:
        """Median and range of a contestant's seconds per call by "cpu" or "wall"."""
        return spread([getattr(r.samples[name], clock) for r in self.used])

    def ratio(self, name: str, other: str, clock: str) -> dict[str, float]:
        """Median and range of the seconds of ``other`` over those of ``name``, round by round."""
        return spread([getattr(r.samples[other], clock) / getattr(r.samples[name], clock) for r in self.used])

    def to_dict(self) -> dict[str, Any]:
        return {
            "threads": self.threads,
            "clean": len(self.clean),
            "discarded": len(self.rounds) - len(self.used),
            "rounds": [
                {
                    "others": r.others,
                    "clean": r.clean,
                    "samples": {name: [s.cpu, s.wall] for name, s in r.samples.items()},
                }
                for r in self.rounds
            ],
        }

    @classmethod
    def from_dict(cls, held: Mapping[str, Any]) -> Rounds:
        return cls(
            held["threads"],
            tuple(
                Round({name: Sample(*pair) for name, pair in r["samples"].items()}, r["others"], r["clean"])
                for r in held["rounds"]
            ),
        )


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def measure(
    calls: Mapping[str, Callable[[], object]],
    wanted: int,
    threads: int,
    clock: Clock,
    done: Callable[[], None] = lambda: None,
) -> Rounds:
    """Warm up, then measure rounds until ``wanted`` of them are clean.

    It stops after twice as many rounds, or after ``wanted`` if most were disturbed by then, since more would
    not help. With several threads it stops after two disturbed rounds: threads that wait for one whose core
    is taken can take a hundred times as long.

    Args:
        threads: the number of threads that the calls use.
        done: called after every sample.
    """
    repeats = {name: _repeats(call, clock) for name, call in calls.items()}
    rounds: list[Round] = []
    order, patience = list(calls), wanted if threads == 1 else min(2, wanted)
    gc.collect()
    gc.disable()
    try:
        while len(rounds) < 2 * wanted:
            rounds.append(_round({name: calls[name] for name in order}, repeats, threads, clock, done))
            order = order[1:] + order[:1]
            clean = sum(r.clean for r in rounds)
            if clean >= wanted or len(rounds) >= patience and 2 * clean < len(rounds):
                break
    finally:
        gc.enable()
    return Rounds(threads, tuple(rounds))


def _repeats(call: Callable[[], object], clock: Clock) -> int:
    """The number of repetitions of a call within one sample; the calls made to find it are the warm-up."""
    call()
    before = clock.wall()
    call()
    return max(1, math.ceil(LEAST_SECONDS / max(clock.wall() - before, 1e-6)))


def _round(
    calls: Mapping[str, Callable[[], object]],
    repeats: Mapping[str, int],
    threads: int,
    clock: Clock,
    done: Callable[[], None],
) -> Round:
    samples: dict[str, Sample] = {}
    others, begun, own = clock.others(), clock.wall(), clock.cpu()
    for name, call in calls.items():
        samples[name] = _sample(call, repeats[name], clock)
        done()
    passed = max(clock.wall() - begun, 1e-9)
    after = clock.others()
    share = None if others is None or after is None else max(after - others, 0.0) / passed
    starved = threads == 1 and (clock.cpu() - own) / passed < OWN_REQUIRED
    return Round(samples, share, not starved and (share is None or share <= OTHERS_ALLOWED))


def _sample(call: Callable[[], object], repeats: int, clock: Clock) -> Sample:
    cpu, wall = clock.cpu(), clock.wall()
    for _ in range(repeats):
        call()
    return Sample((clock.cpu() - cpu) / repeats, (clock.wall() - wall) / repeats)
