"""Which models a comparison trains next: rates are halved, all memories read the same bytes, what is open
gets the time that is left."""

import dataclasses

import pytest
import torch

from ttr.experiments.errors import UserError
from ttr.experiments.protocol import REFINEMENT, Clock, Run, Stage, at_the_edge, next_stage
from ttr.experiments.settings import CompareSettings, seconds

NAMES = ("fast", "middle", "slow")
COST = {"fast": 0.01, "middle": 0.04, "slow": 0.05}


def protocol(settings, clock, best, undecided=lambda: (), pace=1.0):
    """All stages of a comparison whose rate ``best`` of a memory gives the least bits. A stage takes ``pace``
    times what the costs say."""

    def tuning(run):
        return False, abs(torch.tensor(run.rate / best[run.memory]).log().item())

    done = []
    while stage := next_stage(done, NAMES, settings, clock, tuning, undecided):
        took = pace * Clock(None, clock.jobs, clock.cost, clock.judging).of(stage.runs)
        clock.took(stage, took)
        clock.spent += took
        done.append(stage)
    return done


def runs(stage, name):
    return [run for run in stage.runs if run.memory == name]


def test_rates_are_halved_and_the_one_beyond_the_edge_is_tried():
    settings = CompareSettings(steps=80, learning_rates=(1.0, 3.0, 9.0))
    best = {"fast": 3.1, "middle": 3.0, "slow": 26.0}
    done = protocol(settings, Clock(None, 2, COST, 0.0), best)
    assert [{run.steps for run in stage.runs} for stage in done] == [{10}, {40}, {80}]
    assert [run.rate for run in runs(done[0], "fast")] == [1.0, 3.0, 9.0]
    assert {run.rate for run in runs(done[1], "fast")} == {3.0, 9.0}
    assert {run.rate for run in runs(done[1], "slow")} == {9.0, 27.0}
    assert {(run.seed, run.rate, run.kept) for run in runs(done[2], "slow")} == {
        (0, 27.0, True),
        (1, 27.0, False),
    }
    assert at_the_edge(done, "slow", 27.0) and not at_the_edge(done, "fast", 3.0)


def test_a_rate_that_diverges_loses_to_one_that_does_not():
    settings = CompareSettings(steps=80, learning_rates=(1.0, 3.0))
    clock = Clock(None, 1, COST, 0.0)
    first = next_stage([], NAMES, settings, clock, None, None)

    def tuning(run):
        return run.rate == 3.0, -run.rate

    second = next_stage([first], NAMES, settings, clock, tuning, None)
    assert {run.rate for run in second.runs} == {1.0, 0.33}


@pytest.mark.parametrize("ahead, chosen", [(0.04, 1.0), (0.06, 3.0), (-0.3, 1.0)])
def test_a_higher_rate_must_be_clearly_ahead(ahead, chosen):
    settings = CompareSettings(steps=80, learning_rates=(1.0, 3.0), seeds=1)
    clock, bits = Clock(None, 1, COST, 0.0), {1.0: 4.0, 3.0: 4.0 - ahead, 9.0: 5.0, 0.33: 5.0}
    done = [next_stage([], NAMES, settings, clock, None, None)]
    done.append(Stage("", tuple(Run(name, 0, rate, 40) for name in NAMES for rate in (3.0, 1.0))))
    third = next_stage(done, NAMES, settings, clock, lambda run: (False, bits[run.rate]), None)
    assert {run.rate for run in third.runs} == {chosen}
    third = next_stage(done, NAMES, settings, clock, lambda run: (run.rate == 1.0, bits[run.rate]), None)
    assert {run.rate for run in third.runs} == {3.0}  # the lower one diverged


def test_one_rate_is_trained_at_all_budgets():
    done = protocol(
        CompareSettings(steps=80, lr=0.5, seeds=1), Clock(None, 1, COST, 0.0), dict.fromkeys(NAMES, 1)
    )
    assert [[(run.rate, run.steps) for run in runs(stage, "fast")] for stage in done] == [
        [(0.5, 10)],
        [(0.5, 40)],
        [(0.5, 80)],
    ]
    assert not at_the_edge(done, "fast", 0.5)


@pytest.mark.parametrize("pace", [0.7, 1.0, 1.6])
@pytest.mark.parametrize("jobs", [1, 2])
def test_the_time_is_kept_and_what_is_left_goes_once_to_what_is_open(pace, jobs):
    """Also where all takes longer than it was timed. Without anything open it ends before."""
    settings, best = CompareSettings(), dict.fromkeys(NAMES, 8e-3)
    clock = Clock(300.0, jobs, COST, 20.0)
    done = protocol(settings, clock, best, lambda: NAMES, pace)
    assert 250 < clock.spent < (300 if pace <= 1 else 320)
    assert len({run.steps for stage in done[2:] for run in stage.runs}) == 1
    assert len(done) == 4
    seeds = [run.seed for stage in done[2:] for run in runs(stage, "slow")]
    assert seeds == list(range(len(seeds))) and len(seeds) > 2
    sure = Clock(300.0, jobs, COST, 20.0)
    assert len(protocol(settings, sure, best, pace=pace)) == 3
    assert sure.spent < 300 * (1 - REFINEMENT) * (1.01 if pace <= 1 else 1.3)


def test_a_longer_time_is_more_steps_for_all():
    settings, best = CompareSettings(), dict.fromkeys(NAMES, 8e-3)
    short, long = (protocol(settings, Clock(t, 2, COST, 20.0), best)[2].runs[0].steps for t in (300, 3000))
    assert 8 * short < long < 14 * short


def test_a_stage_costs_its_work_over_the_processes_or_its_longest_run():
    clock = Clock(None, 2, COST, 10.0)
    assert clock.of([Run("slow", 0, 0.1, 90)]) == pytest.approx(5.0)
    assert clock.of([Run("slow", 0, 0.1, 90), Run("fast", 0, 0.1, 90)]) == pytest.approx(5.0)
    assert clock.of([Run("slow", i, 0.1, 90) for i in range(4)]) == pytest.approx(10.0)
    clock.took(Stage("", (Run("slow", 0, 0.1, 90),)), 7.5)
    assert clock.of([Run("fast", 0, 0.1, 90)]) == pytest.approx(1.5)
    steps = clock.steps({0.5: NAMES, 1.0: [*NAMES, "fast"]}, 60.0)
    first, second = (
        [Run(name, 0, 0.1, n) for name in names]
        for n, names in ((steps // 2, NAMES), (steps, [*NAMES, "fast"]))
    )
    assert 59.0 < clock.of(first) + clock.of(second) <= 60.0


def test_a_stage_is_the_same_from_its_file():
    stage = Stage("a title", (Run("fast", 1, 0.5, 3, True), Run("slow", 1, 0.5, 3)))
    assert Stage.from_dict(stage.to_dict()) == stage


def test_times_are_words():
    assert [seconds(words) for words in ("90", "90s", "6m", "1.5h")] == [90.0, 90.0, 360.0, 5400.0]
    for words in ("", "m", "6 minutes", "1d"):
        with pytest.raises(UserError, match="Write for example 90s"):
            seconds(words)
    command = dataclasses.replace(CompareSettings(), time=5400.0).command()
    assert command.endswith(" --time 5400s") and "--width 64" in command
