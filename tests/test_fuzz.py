"""The fuzzer finds planted faults, and nothing in the package."""

import os
import time

import pytest
import torch

from tests.fuzz import Call, Outcome, play
from tests.fuzz.run import draw, run
from tests.fuzz.workers import Workers
from ttr import dispatch, prepare
from ttr.engines.torch.attention import Attention

KNOWN = Call("softmax-attention", time=5, heads=2, key=3, value=2, mode="grad")


def test_right_calls_are_equal_and_wrong_ones_refused():
    assert play(KNOWN).kind == "equal"
    assert play(Call("softmax-attention", wrong=("q", "integers"))).kind == "refused"
    assert play(Call("softmax-attention", engine="native")).kind == "refused"
    assert play(Call("Window(size=3) | Linear() | DeltaRule()")).kind == "refused"
    assert play(Call("softmax-attention", wrong=("q", "NaN"), checks=False)).kind == "not judged"
    assert play(Call("linear-attention", dtype="float16", values="huge")).kind == "no digit"


def wrapped(monkeypatch, change):
    """Attention with changed outputs and state."""
    original = Attention.run
    monkeypatch.setattr(Attention, "run", lambda self, problem, x: change(x, *original(self, problem, x)))


def _writes(x, y, state):
    x.v.zero_()
    return y, state


def _raises(x, y, state):
    raise IndexError("index 3 is out of bounds")


@pytest.mark.parametrize(
    "kind, change",
    [
        ("wrong number", lambda x, y, state: (y * (1 + 1e-6), state)),
        ("wrong number", lambda x, y, state: (y, state.replace(keys=state["keys"] + 1e-6))),
        ("wrong number", lambda x, y, state: (y.detach() + 0 * x.q.sum(), state)),
        ("wrong number", lambda x, y, state: (y * torch.nan, state)),
        ("wrong form", lambda x, y, state: (y[..., :1], state)),
        ("wrong form", lambda x, y, state: (y, state.replace(position=state.position + 1))),
        ("input changed", _writes),
        ("foreign exception", _raises),
    ],
)
def test_faults_of_a_engine_are_found(monkeypatch, kind, change):
    wrapped(monkeypatch, change)
    call = KNOWN if kind != "input changed" else Call("softmax-attention", time=5)
    assert play(call).kind == kind


def test_arguments_that_should_be_refused_are_found(monkeypatch):
    monkeypatch.setattr("ttr.prepare._check_numbers", lambda *arguments: None)
    assert play(Call("softmax-attention", wrong=("q", "NaN"))).kind == "not refused"


def test_right_calls_that_are_refused_are_found(monkeypatch):
    monkeypatch.setattr(dispatch, "check_streaming", lambda problem, streams: prepare.check_problem("gla"))
    assert play(KNOWN).kind == "refuses what is right"


def test_writing_beside_a_view_is_found(monkeypatch):
    def change(x, y, state):
        x.v.untyped_storage().fill_(0)
        return y, state

    wrapped(monkeypatch, change)
    assert play(Call("softmax-attention", time=5, layouts=(("v", "inside a buffer"),))).kind == (
        "input changed"
    )


@pytest.mark.parametrize("place", ["q", "k", "v", "gradient"])
def test_every_layout_keeps_the_numbers_or_repeats_them(place):
    from tests.fuzz.tensors import LAYOUTS

    for layout in LAYOUTS:
        call = Call(
            "linear-attention", time=5, heads=2, key=3, value=2, layouts=((place, layout),), mode="grad"
        )
        assert play(call).kind == "equal", layout


def test_the_same_seed_draws_the_same_calls():
    calls = draw(3, 50)
    assert calls == draw(3, 50) and calls != draw(4, 50) and len(set(calls)) >= 40
    assert all(eval(repr(call)) == call for call in calls)


def fragile(call: Call) -> Outcome:
    """A stand-in for a library that crashes and hangs."""
    if call.time == 4:
        os.abort()
    if call.time == 5:
        time.sleep(100)
    return Outcome("equal")


def test_a_crash_or_a_hang_ends_one_call_alone():
    with Workers(1, fragile, longest=3) as workers:
        outcomes = [
            outcome for _, outcome in workers.play(Call("gla", time=length) for length in (3, 4, 3, 5, 3))
        ]
    assert [outcome.kind for outcome in outcomes] == ["equal", "crash", "equal", "hang", "equal"]
    assert "exit code -6" in outcomes[1].words and "in fragile" in outcomes[1].words


def faulty(call: Call) -> Outcome:
    """A stand-in for a library that is wrong above some sizes."""
    return Outcome("wrong number", "off", "here") if call.key > 4 and call.heads > 2 else Outcome("equal")


def test_a_finding_is_made_simple_and_printed_as_python():
    heard = []
    report = run(0, 80, 1, heard.append, faulty)
    ((call, outcome),) = report.found.values()
    assert call == Call(call.problem, heads=3, key=5) and outcome.kind == "wrong number"
    assert report.counts.total() == 80 and 1 <= report.counts["wrong number"] < 80
    assert f"print(play(Call(problem={call.problem!r}, heads=3, key=5)))" in str(report) and str(
        report
    ).endswith(report.summary())


@pytest.mark.full
def test_two_thousand_calls_are_equal_or_refused(capsys):
    with capsys.disabled():
        report = run(0, 2000, 2)
    assert not report.found, f"\n{report}"
    assert (
        report.counts["equal"] > 1000 and report.counts["refused"] > 100 and report.counts["no digit"] < 200
    ), report.summary()
