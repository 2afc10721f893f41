"""Which models a comparison trains next, from the results so far and the time that is left.

First every learning rate for a short time, then the two best for half of the steps (successive halving:
Jamieson, Talwalkar, "Non-stochastic best arm identification", arXiv 1502.07943), then the best from several
seeds in full. The time that is left goes to further seeds of the memories whose distance to the best is
still open: once, since who looks again and again finds a difference between equal memories at last. All
memories read the same bytes in every stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttr.experiments.settings import CompareSettings

RATES, HALVED, SEEDS = 1 / 8, 1 / 2, 1.0
"""Steps of the first three stages, as shares of those of the third. After a quarter of them a rate
that is too high is still ahead (docs/decisions/0009)."""

MARGIN = 0.05
"""Bits per byte that a higher learning rate must be ahead by: the best rate falls as the training gets
longer, and seeds differ by as much."""
FULL = 2
"""Which stage, from 0, trains all memories in full: those before it choose learning rates, the one after it
adds seeds."""
REFINEMENT = 0.3
"""The share of the time that is kept for further seeds."""
MOST_SEEDS = 14
"""Further seeds, at most."""


@dataclass(frozen=True)
class Run:
    """One model to train. A ``kept`` one is looked at more closely, and can be used afterwards."""

    memory: str
    seed: int
    rate: float
    steps: int
    kept: bool = False


@dataclass(frozen=True)
class Stage:
    """Runs that do not depend on each other."""

    title: str
    runs: tuple[Run, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"title": self.title, "runs": [vars(run) for run in self.runs]}

    @staticmethod
    def from_dict(held: Mapping[str, Any]) -> Stage:
        """What ``to_dict`` wrote."""
        return Stage(held["title"], tuple(Run(**run) for run in held["runs"]))


@dataclass
class Clock:
    """What the time allows.

    Attributes:
        limit: seconds of the whole; None if the steps are given.
        jobs: processes.
        cost: seconds of one training step of every memory, in one process.
        judging: how long it takes to judge a trained model, in training steps.
        spent: seconds that have passed.
        slower: how much longer the stages took than ``cost`` says.
    """

    limit: float | None
    jobs: int
    cost: Mapping[str, float]
    judging: float
    spent: float = 0.0
    slower: float = 1.0

    def of(self, runs: Sequence[Run]) -> float:
        """The seconds that runs will take: the processes are busy to the end, or wait for the longest."""
        each = [self.slower * (run.steps + self.judging) * self.cost[run.memory] for run in runs]
        return max(sum(each) / self.jobs, max(each))

    def took(self, stage: Stage, seconds: float) -> None:
        """Learn from a stage."""
        self.slower *= seconds / self.of(stage.runs)

    def steps(self, stages: Mapping[float, Sequence[str]], seconds: float) -> int:
        """The number of steps N such that the stages fit into the seconds; each trains its memories for its
        share of N."""
        one = {
            share: self.of([Run(name, 0, 0.0, 1) for name in memories]) / (1 + self.judging)
            for share, memories in stages.items()
        }
        left = seconds - self.judging * sum(one.values())
        return max(1, int(left / sum(share * cost for share, cost in one.items())))


Tuning = Callable[[Run], tuple[bool, float]]
"""(whether a finished run diverged, its bits per byte on the tuning windows)"""

Open = Callable[[], Sequence[str]]
"""The memories whose order the finished stages have not decided."""


def next_stage(
    done: Sequence[Stage],
    names: Sequence[str],
    settings: CompareSettings,
    clock: Clock,
    tuning: Tuning,
    undecided: Open,
) -> Stage | None:
    """What to train after the stages that are ``done``; None when nothing is left to do, or no time.

    A pure function: whoever knows the same gets the same answer.
    """
    first, seeds = settings.seed, range(settings.seed, settings.seed + settings.seeds)
    if len(done) == 0:
        steps = _steps(settings, clock, names, RATES)
        runs = [Run(name, first, rate, steps) for name in names for rate in settings.rates]
        return Stage("every learning rate", tuple(runs))
    if len(done) == 1:
        steps = _steps(settings, clock, names, HALVED)
        runs = [
            Run(name, first, rate, steps)
            for name in names
            for rate in _nearest(_ranked(done[0], name, tuning))
        ]
        return Stage("the best learning rates", tuple(runs))
    best = {name: _settled(done[1], name, tuning) for name in names}
    if len(done) == FULL:
        steps = _steps(settings, clock, names, SEEDS)
        runs = [Run(name, seed, best[name], steps, seed == first) for seed in seeds for name in names]
        return Stage("all memories", tuple(runs))
    if len(done) > FULL + 1 or clock.limit is None or not (names := undecided()):
        return None
    runs, steps = [], done[FULL].runs[0].steps
    for seed in range(seeds.stop, seeds.stop + MOST_SEEDS):
        more = [*runs, *(Run(name, seed, best[name], steps) for name in names)]
        if clock.spent + clock.of(more) > clock.limit:
            break
        runs = more
    return Stage("further seeds of " + ", ".join(names), tuple(runs)) if runs else None


def _steps(settings: CompareSettings, clock: Clock, names: Sequence[str], share: float) -> int:
    """The steps of a stage that has this ``share`` of those of the third: as the settings say, or as many as
    leave time for the stages after it."""
    if clock.limit is None:
        return max(1, round(share * settings.steps))
    runs = {RATES: len(settings.rates), HALVED: min(2, len(settings.rates)), SEEDS: settings.seeds}
    stages = {part: [*names] * count for part, count in runs.items() if part >= share}
    steps = clock.steps(stages, (1 - REFINEMENT) * clock.limit - clock.spent)
    return max(1, round(share * steps))


def _ranked(stage: Stage, name: str, tuning: Tuning) -> list[float]:
    """The learning rates of a stage for one memory, the best first."""
    return [run.rate for run in sorted((r for r in stage.runs if r.memory == name), key=tuning)]


def _settled(stage: Stage, name: str, tuning: Tuning) -> float:
    """The learning rate for the whole training: the least of those that are within ``MARGIN`` of the best."""
    found = {run.rate: tuning(run) for run in stage.runs if run.memory == name}
    diverged, bits = min(found.values())
    return min(rate for rate, each in found.items() if each[0] == diverged and each[1] <= bits + MARGIN)


def _nearest(ranked: Sequence[float]) -> list[float]:
    """The best rate and the next one in the order of the bits; if the best lies at the edge of those tried,
    the rate beyond it instead, since the best one may lie there."""
    if len(ranked) == 1:
        return list(ranked)
    best, rates = ranked[0], sorted(ranked)
    if best == rates[0]:
        return [best, _rounded(best * rates[0] / rates[1])]
    if best == rates[-1]:
        return [best, _rounded(best * rates[-1] / rates[-2])]
    return list(ranked[:2])


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")


def at_the_edge(done: Sequence[Stage], name: str, rate: float) -> bool:
    """Whether a memory's learning rate is the least or the greatest that was tried, so that one beyond may be
    better."""
    tried = sorted({run.rate for stage in done[:FULL] for run in stage.runs if run.memory == name})
    return len(tried) > 1 and rate in (tried[0], tried[-1])
