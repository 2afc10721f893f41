"""The benchmark: which contestants may be timed, which rounds count, and what is recorded. No test asserts a
time."""

import dataclasses
import importlib.util
import io
import itertools
import json
import os
import subprocess
import sys

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from rich.console import Console

import ttr
from ttr import catalogue, cli, matmul
from ttr.diagnostics import record
from ttr.engines.native import library
from ttr.engines.torch.chunkwise_additive import ChunkwiseAdditive
from ttr.engines.torch.chunkwise_delta import ChunkwiseDelta
from ttr.experiments.bench import entries, figures, machine, models, peak, peers, report, run
from ttr.experiments.bench.cases import Case, Memories, Shape, cases
from ttr.experiments.bench.contestants import (
    Call,
    Contestant,
    broken_law,
    of_plan_compiled,
    within_onednn,
    without_native,
)
from ttr.experiments.bench.entries import Entries
from ttr.experiments.bench.families import FAMILIES, gated
from ttr.experiments.bench.models import GENERATED, Models
from ttr.experiments.bench.operation_counts import DELTA, delta_flops
from ttr.experiments.bench.results import Figures, load
from ttr.experiments.bench.rounds import LEAST_SECONDS, OTHERS_ALLOWED, Rounds, SystemClock, measure
from ttr.experiments.bench.settings import BenchSettings
from ttr.experiments.bench.trial import FLOAT64, Past, disagreement, predicted, solves
from ttr.experiments.errors import UserError
from ttr.laws import LAWS
from ttr.laws.tolerances import FLOAT32, FLOAT32_OUTPUTS, error

OWN_NUMBERS = (Models, Entries)
"""The families whose contestants have weights or inputs of their own."""


class Hands:
    """A clock that is set by hand: ``spend`` simulates a call's duration, of which other processes use a
    share of a core."""

    def __init__(self):
        self.passed = self.own = self.stolen = 0.0

    def spend(self, seconds, others=0.0, own=1.0):
        self.passed, self.own, self.stolen = (
            self.passed + seconds,
            self.own + own * seconds,
            self.stolen + others * seconds,
        )

    def cpu(self):
        return self.own

    def wall(self):
        return self.passed

    def others(self):
        return self.stolen


class Ticking(Hands):
    """The same, but reading it takes a millisecond."""

    def wall(self):
        self.spend(1e-3)
        return super().wall()


GATED = catalogue["gated-deltanet"].problem
TRACEABLE = os.environ.get("TTR_TEST_TYPES", "1") != "1"
"""torch.compile cannot look through the shape checks."""


def scaled(factor, side="peer", **options):
    """A contestant that returns our results times a factor."""

    def prepare(x):
        given = {name: x[name] for name in ("q", "k", "v", "log_decay", "step_size")}
        return Call(lambda: factor * ttr.regress(GATED, **given), given)

    return Contestant(f"times {factor}", side, prepare, **options)


def family(*others, directions=("forward",), times=(8, 16)):
    """Gated DeltaNet at small sizes beside other contestants."""
    shapes = tuple(Shape(time=time, heads=2, key=4, value=4) for time in times)
    return Memories(
        name="tiny",
        words="a small one",
        problem=GATED,
        draw=gated,
        token_flops=delta_flops,
        formula=DELTA,
        peers=dict.fromkeys(directions, others),
        shapes=dict.fromkeys(directions, shapes),
    )


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """Run a benchmark of some families; return its result and what it prints."""
    monkeypatch.setattr(
        machine, "rates", lambda threads, clock: dict.fromkeys((*machine.PRODUCTS, "copy"), 1e9)
    )
    monkeypatch.setattr("ttr.experiments.bench.rounds.LEAST_SECONDS", 0.0)

    def run_it(*families, **changes):
        monkeypatch.setattr(run, "FAMILIES", families)
        console = Console(file=io.StringIO(), width=150)
        settings = BenchSettings(
            **({"out": tmp_path / "out", "rounds": 1, "threads": 1, "memory": False} | changes)
        )
        return run.bench(settings, console), console.file.getvalue()

    return run_it


def statuses(held):
    return [{row["name"]: row["status"] for row in case["rows"]} for case in held["cases"]]


# ----------------------------------------------------------------------------- which contestants may be timed
class Faulty(ChunkwiseDelta):
    """An engine whose read-outs are slightly too small."""

    name = "faulty"

    def small(self):
        return self

    def run(self, problem, x):
        y, state = super().run(problem, x)
        return y * (1 + 3 * FLOAT32), state


def test_an_engine_whose_contract_is_red_is_not_timed(bench, monkeypatch):
    monkeypatch.setattr(
        "ttr.experiments.bench.contestants.ENGINES", (ChunkwiseDelta(), Faulty(), ChunkwiseDelta())
    )
    held, printed = bench(family())
    assert statuses(held) == [{"chunkwise-delta": "timed", "faulty": "refused"}] * 2
    why = held["cases"][0]["rows"][1]["why"]
    assert "faulty fails law 1 (equals the oracle) in float64: the output" in why and why in printed
    assert all(
        set(sample["samples"]) == {"chunkwise-delta"}
        for case in held["cases"]
        for sample in case["passes"][0]["rounds"]
    )
    assert run.wrong(held) == [f"{case['name']}, faulty" for case in held["cases"]]


def test_an_engine_that_raises_is_not_timed(bench, monkeypatch):
    class Raising(Faulty):
        def run(self, problem, x):
            raise RuntimeError("no such kernel")

    monkeypatch.setattr("ttr.experiments.bench.contestants.ENGINES", (Raising(),))
    held, _ = bench(family(), engines=("faulty",))
    assert held["cases"][0]["rows"][0]["why"].endswith("no such kernel") and not held["cases"][0]["passes"]


@pytest.mark.parametrize("direction", ("forward", "training"))
def test_a_peer_that_disagrees_is_an_error_and_not_a_number(bench, direction):
    # a peer's error may be ten times ours
    right, wrong = scaled(1 + 3 * FLOAT32), scaled(1 + 30 * FLOAT32)
    held, printed = bench(
        family(right, wrong, directions=(direction,), times=(8,)), engines=("chunkwise-delta",)
    )
    assert statuses(held) == [{"chunkwise-delta": "timed", right.name: "timed", wrong.name: "wrong"}]
    why = held["cases"][0]["rows"][2]["why"]
    assert "Its output differs from that of chunkwise-delta by 3.0e-03" in why and why in printed
    assert (
        wrong.name not in held["cases"][0]["passes"][0]["rounds"][0]["samples"] and len(run.wrong(held)) == 1
    )


def test_gradients_must_agree_too():
    y, slope = torch.ones(3), torch.ones(2)
    assert disagreement((y, {"q": slope}), "other", (y, {"q": slope, "own": 5 * slope})) is None
    assert "gradient of q" in disagreement((y, {"q": 2 * slope}), "other", (y, {"q": slope}))
    assert "output" in disagreement((y * torch.nan, {}), "other", (y, {}))


def test_what_computes_something_else_is_not_compared(bench):
    held, _ = bench(family(scaled(2.0, side="floor", compared=False), times=(8,)))
    assert set(statuses(held)[0].values()) == {"timed"} and not run.wrong(held)


def test_a_peer_that_is_not_installed_is_left_out_with_a_sentence(bench, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    held, printed = bench(family(peers.gated_delta, times=(8,)))
    why = "transformers is not installed. Use pip install 'test-time-regression[hf]'."
    assert (
        statuses(held)[0]["qwen3-next"] == "left out"
        and f"left out qwen3-next: {why}" in printed
        and not run.wrong(held)
    )


def test_flash_linear_attention_is_looked_for_beside_the_environment(bench, monkeypatch, tmp_path):
    monkeypatch.setenv("TTR_PARITY", str(tmp_path))
    mesanet = next(each for each in FAMILIES if each.name == "mesanet")
    held, printed = bench(
        dataclasses.replace(mesanet, shapes={"forward": (Shape(time=8, heads=1, key=4, value=4),)})
    )
    assert statuses(held)[0] == {"chunkwise-ridge": "timed", "fla-naive-cg30": "left out"} and not run.wrong(
        held
    )
    assert f"--target {tmp_path} flash-linear-attention" in printed


def test_a_named_engine_that_refuses_is_left_out_with_its_reason(bench):
    held, _ = bench(family(times=(8,)), engines=("chunkwise-additive", "chunkwise-delta"))
    assert statuses(held) == [{"chunkwise-additive": "left out", "chunkwise-delta": "timed"}]
    assert held["cases"][0]["rows"][0]["why"] == ChunkwiseAdditive().refuses(GATED)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.parametrize(
    "case",
    [case for case in cases(FAMILIES) if case.shape.batch == 1 and not isinstance(case.family, OWN_NUMBERS)],
    ids=lambda case: case.name,
)
def test_all_peers_compute_what_ours_do(case, monkeypatch):
    """At a small shape of several chunks, the last one partial: outputs, and gradients of the inputs that
    both have."""
    monkeypatch.setattr("ttr.experiments.bench.contestants.COMPILER", "eager")
    x = (case if case.direction == "decode" else case.shaped(time=300)).shaped(heads=2, key=16, value=16)
    inputs = x.inputs()
    found = [
        each
        for each in x.contestants((), False, inputs)
        if each.compared and (TRACEABLE or each.name != "compiled")
    ]
    absent = [why for each in found if (why := each.missing(inputs))]
    if absent:
        pytest.skip(absent[0])
    outcomes = {each.name: each.timed(each.prepare(inputs), case.direction == "training")() for each in found}
    name, reference = next(iter(outcomes.items()))
    assert len(outcomes) > 1 and all(
        disagreement(outcome, name, reference) is None for outcome in outcomes.values()
    )
    if case.direction == "training":
        assert reference[1] and all(len(outcome[1]) >= 2 for outcome in outcomes.values())


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.parametrize(
    "case",
    [case for case in cases(FAMILIES) if isinstance(case.family, Models) and case.shape.batch == 1],
    ids=lambda case: case.name,
)
def test_models_of_both_sides_do_the_same_work(case):
    """As many parameters, within a tenth; logits, losses or tokens of the same shape, and finite."""
    x = case.shaped(time=20)
    made = {}
    for each in x.contestants((), False):
        y, gradients = each.timed(each.prepare(x.inputs()), case.direction == "training")()
        assert torch.isfinite(y).all()
        made[each.side] = y.shape, sum(g.numel() for g in gradients.values())
    (ours, own), (theirs, other) = made["ours"], made["peer"]
    assert ours == theirs and own <= 1.1 * other and other <= 1.1 * own
    if case.direction == "generate":
        assert ours == (1, 20 + GENERATED)


def test_the_page_of_the_catalogue_lists_the_slowest_first(bench):
    made = {}
    for name, seconds in (("gla", 2.0), ("based", 9.0), ("kda", 0.5)):
        for way in ("forward", "training"):
            rounds = [
                {
                    "others": 0.0,
                    "clean": True,
                    "samples": {"ttr": [seconds] * 2, entries.ATTENTION: [1.0] * 2},
                }
            ]
            made[name, way] = {
                "family": f"catalogue.{name}",
                "direction": way,
                "shape": vars(entries.SHAPE),
                "rows": [{"name": row, "status": "timed"} for row in ("ttr", entries.ATTENTION)],
                "passes": [{"threads": 1, "rounds": rounds}],
            }
    page = entries.page([*made.values(), {"family": "kda"}], {"processor": "a processor"})
    listed = [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines()[6:]]
    assert listed == ["based", "gla", "kda"] and "| based | 9.00 | 9 s | 9.00 | 9 s |" in page
    assert entries.page([{"family": "kda"}], {}) is None


def test_the_page_of_models_tells_both_sides():
    clean = {"others": 0.0, "clean": True}
    case = {
        "family": "model.mamba2",
        "direction": "decode",
        "shape": vars(Shape(1, 512, 4, 64, 64)),
        "rows": [
            {"name": "ttr", "side": "ours", "status": "timed"},
            {"name": "transformers, mamba2", "side": "peer", "status": "timed"},
        ],
        "passes": [
            {
                "threads": threads,
                "rounds": [clean | {"samples": {"ttr": [0.02, wall], "transformers, mamba2": [0.05, 0.04]}}],
            }
            for threads, wall in ((1, 0.02), (2, 0.01))
        ],
    }
    page = models.page([case], {"processor": "a processor", "torch": "2", "transformers": "5"})
    assert "| 20 ms | 50 ms | 2.50x (2.50-2.50) | 10 ms / 40 ms |" in page and "16 tokens after 512" in page
    assert models.page([case | {"family": "kda"}], {}) is None


@pytest.mark.parametrize("name", ["gated-deltanet", "deltaproduct", "lru", "titans", "softmax-attention"])
def test_an_entry_gets_what_its_own_layer_makes(name):
    case = next(c for c in cases(FAMILIES) if c.name.startswith(f"catalogue.{name}.training")).shaped(
        time=40, heads=2, key=16, value=16
    )
    for each in case.contestants((), False):
        y, gradients = each.timed(each.prepare(case.inputs()), True)()
        assert torch.isfinite(y).all() and all(torch.isfinite(g).all() for g in gradients.values())
        assert len(gradients) >= 3


@pytest.mark.parametrize(
    "peer, function, names",
    [
        (peers.fla_additive, "chunk_simple_gla", {"g"}),
        (peers.fla_gated_delta, "chunk_gated_delta_rule", {"g", "beta"}),
        (peers.fla_kda, "chunk_kda", {"g", "beta"}),
    ],
)
def test_the_peers_on_a_gpu(monkeypatch, peer, function, names):
    """Without a peer, a sentence says so; with it, its function gets the case's tensors on the device under
    its own argument names. Our function stands in for the peer's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch sees none" in peer.missing(None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert peer.missing(None) == "fla is not installed. Use pip install flash-linear-attention."
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert peer.missing(None) is None

    family = next(f for f in FAMILIES if peer in f.peers["forward"])
    moved, awaited, given = [], [], {}
    monkeypatch.setattr(torch.Tensor, "to", lambda x, device: moved.append(device) or x)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: awaited.append(True))

    def stand_in(q, k, v, *, scale, **controls):
        assert set(controls) == names
        given.update(
            {"log_decay": controls["g"]} | ({"step_size": controls["beta"]} if "beta" in controls else {})
        )
        ours = family.problem.function.plain_scale(q.shape[-1])
        assert (q.shape[-1] ** -0.5 if scale is None else scale) == pytest.approx(ours)
        return v, None

    module = type(sys)("fla.ops")
    setattr(module, function, stand_in)
    monkeypatch.setitem(sys.modules, "fla", type(sys)("fla"))
    monkeypatch.setitem(sys.modules, "fla.ops", module)
    x = Case(family, "forward", Shape(time=3, heads=2, key=4, value=4)).inputs()
    assert peer.prepare(x).run() is x["v"]
    assert all(given[name] is x[name] for name in given) and set(given) == set(family.problem.controls())
    assert moved == ["cuda"] * (3 + len(names)) and awaited == [True]


def test_a_compiled_plan_needs_a_compiler(monkeypatch):
    contestant = of_plan_compiled(GATED)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert contestant.missing(None) == (
        "torch.compile needs a C++ compiler, and there is no "
        "no-such-compiler. Install it, or name another in CXX."
    )
    monkeypatch.setattr("shutil.which", lambda name: name)
    assert contestant.missing(None) is None


@pytest.mark.skipif(not library.available(), reason=library.reason() or "")
def test_a_row_without_the_native_kernels():
    seen = []

    def prepare(x):
        return Call(lambda: seen.append(library.available()) or torch.zeros(1))

    row = Contestant("row", "ours", prepare, broken=lambda: seen.append(library.available()))
    other = without_native(row)
    for each in (row, other):
        each.broken()
        each.timed(each.prepare({}), training=False)()
    assert seen == [True, True, False, False] and library.available() and other.missing({}) is None
    with library.left_out():
        assert "switched off" in other.missing({})
    if matmul.refuses() is None:
        seen.clear()
        within = within_onednn(other)
        within.timed(within.prepare({}), training=False)()
        assert seen == [False], "the context of a row holds within oneDNN too"


# ------------------------------------------------------------------------ errors, and how problems are solved
def test_the_error_of_an_output_is_reported(bench):
    off_by = {"near": FLOAT32 / 3, "far": 1e-2}
    near, far, broken = scaled(1 + off_by["near"]), scaled(1 + off_by["far"]), scaled(float("nan"))
    held, printed = bench(
        family(near, far, broken, scaled(2.0, side="floor", compared=False), times=(8,)),
        engines=("chunkwise-delta",),
    )
    (case,) = held["cases"]
    errors = {row["name"]: row["error"] for row in case["rows"]}
    x = Case(family(), "forward", Shape(time=8, heads=2, key=4, value=4)).inputs()
    x.pop("memory")
    off = error(
        ttr.regress(GATED, engine="chunkwise-delta", **x),
        ttr.oracle(GATED, **{name: tensor.double() for name, tensor in x.items()}),
    )
    assert (
        0 < off < FLOAT32_OUTPUTS
        and errors["chunkwise-delta"]["output"] == pytest.approx(off)
        and errors["times 2.0"] is None
    )
    assert all(
        errors[each.name]["output"] == pytest.approx(off_by[name], rel=0.1)
        for name, each in (("near", near), ("far", far))
    )
    assert (
        errors[broken.name] == {"output": None}
        and statuses(held)[0] | {far.name: "wrong", broken.name: "wrong"} == statuses(held)[0]
    )
    row = next(line for line in printed.splitlines() if line.lstrip().startswith(near.name))
    assert (
        " 3e-05" in row
        and (f"error: against {case['float64']['of']} in float64, which passes the laws against the oracle.")
        in printed
    )
    assert FLOAT64 not in case["passes"][0]["rounds"][0]["samples"] and case["float64"]["status"] == "timed"


def test_the_error_of_the_worst_gradient_is_reported(bench):
    """The output is right, the gradient of the values is wrong."""

    def prepare(x):
        given = {name: x[name] for name in ("q", "k", "v", "log_decay", "step_size")}
        factor = 1 + FLOAT32 / 3
        return Call(
            lambda: ttr.regress(GATED, **given | {"v": factor * x["v"] + (1 - factor) * x["v"].detach()}),
            given,
        )

    held, printed = bench(
        family(Contestant("planted", "peer", prepare), directions=("training",), times=(8,))
    )
    ours, *_, planted = (row["error"] for row in held["cases"][0]["rows"])
    assert (
        set(planted)
        == set(ours)
        == {"output", *(f"gradient of {name}" for name in ("q", "k", "v", "log_decay", "step_size"))}
    )
    assert max(ours.values()) < FLOAT32_OUTPUTS and planted.pop("gradient of v") == pytest.approx(
        FLOAT32 / 3, rel=0.1
    )
    assert max(planted.values()) < FLOAT32_OUTPUTS and any(
        line.split()[:1] == ["planted"] and "3e-05" in line for line in printed.splitlines()
    )


def test_an_error_that_is_not_finite_is_the_largest():
    row = {"error": {"output": 2.0, "gradient of q": None, "gradient of k": 3.0}}
    assert Figures({}).error(row, "output") == 2.0 and Figures({}).error(row, "gradient") == float("inf")
    assert (
        Figures({}).error({"error": None}, "output") is None
        and Figures({}).error({"error": {"output": 1.0}}, "gradient") is None
    )


def test_the_error_of_a_decoded_token(bench, monkeypatch):
    monkeypatch.setattr("ttr.experiments.bench.contestants.COMPILER", "eager")
    shape = Shape(time=1, heads=2, key=4, value=4)
    held, _ = bench(
        dataclasses.replace(family(directions=("decode",)), shapes={"decode": (shape,)}),
        engines=("chunkwise-delta",),
    )
    assert held["cases"][0]["rows"][0]["error"]["output"] < FLOAT32_OUTPUTS


def spending_in_float64(monkeypatch, seconds, float64_seconds):
    """Every call takes some seconds by a clock set by hand, with other durations in float64."""
    clock, timed = Ticking(), Contestant.timed

    def spending(self, call, training):
        run_it = timed(self, call, training)
        return lambda: (clock.spend(float64_seconds if self.name == FLOAT64 else seconds), run_it())[1]

    monkeypatch.setattr(Contestant, "timed", spending)
    monkeypatch.setattr(run, "SystemClock", lambda: clock)


def test_there_is_no_error_where_float64_would_take_too_long(bench, monkeypatch):
    spending_in_float64(monkeypatch, 20.0, 1e9)
    held, printed = bench(family(times=(8,)), limit=30.0, engines=("chunkwise-delta",))
    (case,) = held["cases"]
    assert [(row["status"], row["error"]) for row in case["rows"]] == [("timed", None)]
    assert (
        case["float64"]["why"] == "A call would take about 80 s, longer than --limit 30."
        and (f"error: {case['float64']['why']}") in printed
    )


def test_what_float64_took_is_remembered(bench, monkeypatch):
    spending_in_float64(monkeypatch, 1.0, 20.0)
    held, _ = bench(family(times=(8, 16)), limit=30.0, engines=("chunkwise-delta",))
    assert [case["float64"]["status"] for case in held["cases"]] == ["timed", "stopped"]
    assert [case["rows"][0]["error"] is None for case in held["cases"]] == [False, True]


def test_there_is_no_error_where_none_of_ours_takes_float64(bench, monkeypatch):
    monkeypatch.setattr(
        ChunkwiseDelta,
        "refuses",
        lambda self, problem, x=None: "No." if x is not None and x.v.dtype == torch.float64 else None,
    )
    monkeypatch.setattr("ttr.experiments.bench.contestants.ENGINES", (ChunkwiseDelta(), ChunkwiseDelta()))
    held, printed = bench(family(times=(8,)))
    assert [(row["status"], row["error"]) for row in held["cases"][0]["rows"]] == [("timed", None)]
    assert "error: None of our engines runs float64." in printed


def test_the_call_in_float64_is_one_that_keeps_its_contract_and_takes_no_part_in_the_peaks(
    bench, monkeypatch
):
    asked = []
    monkeypatch.setattr(peak.PeakMemory, "of", lambda self, case, name, *others: asked.append(name))
    monkeypatch.setattr(
        "ttr.experiments.bench.contestants.ENGINES", (Faulty(), ChunkwiseDelta(), ChunkwiseDelta())
    )
    held, _ = bench(family(times=(8,)), memory=True)
    assert statuses(held) == [{"faulty": "refused", "chunkwise-delta": "timed"}] and asked == [
        "chunkwise-delta"
    ]
    assert (
        held["cases"][0]["float64"]["of"] == "chunkwise-delta"
        and held["cases"][0]["rows"][1]["error"]["output"] < FLOAT32_OUTPUTS
    )


def test_solves_are_reported_for_our_engines_only(bench):
    mesanet = next(each for each in FAMILIES if each.name == "mesanet")
    given = ("q", "k", "v", "log_decay", "log_importance", "ridge")
    peer = Contestant(
        "peer",
        "peer",
        lambda x: Call(lambda: ttr.regress(mesanet.problem, **{name: x[name] for name in given})),
    )
    held, printed = bench(
        dataclasses.replace(
            mesanet, peers={"forward": (peer,)}, shapes={"forward": (Shape(time=8, heads=1, key=4, value=4),)}
        ),
        family(times=(8,)),
    )
    (ours, theirs), (delta, *_) = (case["rows"] for case in held["cases"])
    assert (
        ours["solves"]["solver"] == "conjugate gradient"
        and ours["solves"]["iterations"] > 0
        and ours["solves"]["residual"] < FLOAT32_OUTPUTS
    )
    assert theirs["solves"] is None and delta["solves"] is None
    assert (
        f"chunkwise-ridge: conjugate gradient, at most {ours['solves']['iterations']} iterations, "
        "residual at most"
    ) in printed


def test_solves_are_the_largest_of_all_records_of_a_call():
    def call():
        record(solver="gradient descent", loss=torch.ones(1))
        record(solver="conjugate gradient", iterations=3, rows=30, direct_rows=3, residual=torch.tensor(0.5))
        record(solver="elimination", iterations=0, rows=10, direct_rows=0, residual=0.25)
        record(solver="conjugate gradient", iterations=2, rows=0, direct_rows=0, residual=0.0)

    assert solves(call) == {
        "solver": "conjugate gradient, elimination",
        "iterations": 3,
        "residual": 0.5,
        "direct": 3 / 40,
    }
    assert solves(lambda: record(solver="gradient descent", loss=torch.ones(1))) is None
    assert (
        solves(
            lambda: record(solver="elimination", iterations=0, rows=0, direct_rows=0, residual=float("nan"))
        )["residual"]
        is None
    )


def test_a_wide_table_is_read_on_120_columns():
    """Three peers with long names, training, memory and two numbers of threads: no figure is wrapped."""
    names = ("chunkwise-additive", "minimax", "mamba2", "softmax-attention")
    rows = [
        {
            "name": name,
            "side": "peer" if i else "ours",
            "status": "timed",
            "why": None,
            "peak": {"bytes": 12345678},
            "solves": None,
            "error": {"output": 6e-7, "gradient of q": 8e-7},
        }
        for i, name in enumerate(names)
    ]
    clock = Hands()
    calls, rates = {name: spending(clock, 0.0174) for name in names}, dict.fromkeys(machine.PRODUCTS, 1e9)
    passes = [measure(calls, 1, threads, clock).to_dict() | {"rates": rates} for threads in (1, 2)]
    console = Console(file=io.StringIO(), width=120)
    report.show({"name": "wide", "flops": 1e9, "rows": rows, "float64": None, "passes": passes}, console)
    lines = console.file.getvalue().splitlines()
    assert all(len(line) <= 120 for line in lines)
    found = next(line.split() for line in lines if line.lstrip().startswith(names[0]))
    assert found[1:5] == ["17.4", "ms", "17.4-17.4", "ms"] and found[-6:] == [
        "6e-07",
        "8e-07",
        "11.8",
        "MiB",
        "17.4",
        "ms",
    ]


# ----------------------------------------------------------------------------------------- which rounds count
def spending(clock, seconds, others=lambda: 0.0, own=1.0):
    return lambda: clock.spend(seconds, others(), own)


def test_disturbed_rounds_are_discarded_and_counted():
    """Two contestants; in every third round another process is busy, and all take ten times as long."""
    clock, count = Hands(), itertools.count()
    busy = [False]

    def call():
        clock.spend(1.0 * (10 if busy[0] else 1), others=1.0 if busy[0] else OTHERS_ALLOWED / 2)

    def done():
        busy[0] = (next(count) + 1) // 2 % 3 == 2

    rounds = measure({"ours": call, "peer": call}, 4, 1, clock, done)
    assert [r.clean for r in rounds.rounds] == [True, True, False, True, True] and rounds.to_dict()[
        "discarded"
    ] == 1
    assert rounds.spread("ours", "wall") == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert [r.others for r in rounds.rounds] == [pytest.approx(OTHERS_ALLOWED / 2)] * 2 + [1.0] + [
        pytest.approx(OTHERS_ALLOWED / 2)
    ] * 2


def test_one_thread_that_is_kept_off_its_core_is_disturbed():
    clock = Hands()
    rounds = measure({"ours": spending(clock, 1.0, own=0.5)}, 3, 1, clock)
    assert not rounds.clean and len(rounds.rounds) == 3 and rounds.spread("ours", "cpu")["median"] == 0.5
    clock = Hands()
    assert measure({"ours": spending(clock, 1.0, own=0.5)}, 3, 2, clock).mostly_clean, (
        "two threads may wait for each other"
    )


def test_no_time_is_reported_for_a_run_that_was_mostly_disturbed():
    clock = Hands()
    disturbed = measure({"ours": spending(clock, 1.0, others=lambda: 1.0)}, 7, 2, clock)
    clean = measure({"ours": spending(clock, 2.0)}, 7, 2, clock)
    assert len(disturbed.rounds) == 2, "a few disturbed rounds of several threads are enough to give up"
    one = measure({"ours": spending(clock, 3.0)}, 7, 1, clock).to_dict()
    assert Figures({"passes": [one, disturbed.to_dict()]}).wall("ours") is None
    assert Figures({"passes": [one, clean.to_dict()]}).wall("ours")["median"] == 2.0
    assert Figures({"passes": [one]}).wall("ours") is None


def test_others_are_not_known_everywhere():
    clock = Hands()
    clock.others = lambda: None
    rounds = measure({"ours": spending(clock, 1.0)}, 2, 1, clock)
    assert rounds.mostly_clean and [r.others for r in rounds.rounds] == [None, None]


def test_the_order_rotates_and_short_calls_are_repeated():
    clock, order = Hands(), []

    def call(name, seconds):
        def spend():
            clock.spend(seconds)
            order.append(name)

        return spend

    rounds = measure(
        {"a": call("a", 1.0), "b": call("b", 1.0), "c": call("c", 0.6 * LEAST_SECONDS)}, 3, 1, clock
    )
    assert "".join(order) == "aabbcc" + "abcc" + "bcca" + "ccab"
    assert all(r.samples["c"].cpu == pytest.approx(0.6 * LEAST_SECONDS) for r in rounds.rounds)
    assert rounds.ratio("c", "a", "cpu")["median"] == pytest.approx(1 / (0.6 * LEAST_SECONDS))


def test_the_systems_clock_runs():
    clock = SystemClock()
    before = clock.cpu(), clock.wall(), clock.others()
    sum(range(200_000))
    assert (
        clock.cpu() > before[0]
        and clock.wall() > before[1]
        and (before[2] is None or clock.others() is not None)
    )


def test_rounds_come_back_from_the_file_as_they_were():
    clock = Hands()
    rounds = measure({"ours": spending(clock, 1.5)}, 2, 1, clock)
    assert Rounds.from_dict(json.loads(json.dumps(rounds.to_dict()))) == rounds


# ----------------------------------------------------------------------- contestants that would take too long
def test_what_is_expected_grows_at_least_with_the_length_and_at_most_with_its_square():
    assert predicted([], 512) == (0.0, 0.0)
    assert predicted([Past(100, 2.0, 10.0)], 400) == (8.0, 40)
    assert predicted([Past(100, 2.0, 10.0), Past(200, 8.0, 40.0)], 400) == (
        pytest.approx(32.0),
        pytest.approx(160),
    )
    assert predicted([Past(100, 2.0, 10.0), Past(200, 80.0, 10.0)], 400) == (pytest.approx(320.0), 20)


def test_who_takes_longer_than_the_limit_is_stopped_from_there_on(bench, monkeypatch, tmp_path):
    clock = Ticking()
    slow = dataclasses.replace(scaled(1.0), name="slow")

    def timed(call, training):
        run_it = Contestant.timed(slow, call, training)
        return lambda: (clock.spend(20.0), run_it())[1]

    object.__setattr__(slow, "timed", timed)
    monkeypatch.setattr(run, "SystemClock", lambda: clock)
    held, printed = bench(family(slow, times=(8, 16)), limit=30.0)
    assert [rows["slow"] for rows in statuses(held)] == ["timed", "stopped"]
    assert "stopped slow: A call would take about 40 s, longer than --limit 30." in printed
    held, _ = bench(family(slow, times=(8,)), limit=10.0, out=tmp_path / "another")
    assert held["cases"][0]["rows"][-1]["why"] == "A call takes 20 s, longer than --limit 10."


def test_who_would_take_too_much_memory_is_stopped(bench, monkeypatch):
    monkeypatch.setattr("ttr.experiments.bench.trial.free_memory", lambda: 1000.0)
    monkeypatch.setattr(peak.PeakMemory, "of", lambda self, case, *others: {"bytes": 300, "mark": "VmHWM"})
    held, printed = bench(family(times=(8, 16)), memory=True)
    assert [case["rows"][0]["status"] for case in held["cases"]] == ["timed", "stopped"]
    assert (
        held["cases"][0]["float64"]["why"] in printed
        and "about 600 B of memory" in held["cases"][0]["float64"]["why"]
    )
    assert (
        held["cases"][0]["rows"][0]["peak"]["bytes"] == 300
        and ("A call would take about 600 B of memory, and 1e+03 B are free.") in printed
    )


def test_peak_memory_is_at_least_the_output():
    """Softmax attention allocates its output [B,T,H,V] and little else; the chunkwise delta rule several
    times as much."""
    output = 4 * 1024 * 8 * 128
    with peak.PeakMemory() as peaks:
        case = Case(FAMILIES[0], "forward", Shape(time=1024))
        least = peaks.of(case, "softmax-attention", (), False)
        more = peaks.of(case, "chunkwise-additive", (), False)
    assert output <= least["bytes"] < more["bytes"] and least["mark"] == more["mark"]


# ------------------------------------------------------------------------------------------- what is recorded
def test_the_file_holds_every_round_and_what_it_was_measured_on(bench, tmp_path):
    held, printed = bench(family(scaled(1.0), directions=("forward", "training")), rounds=2)
    path = tmp_path / "out" / "bench.json"
    assert (
        load(path) == json.loads(json.dumps(held))
        and held["schema"] == 2
        and str(path) in printed.splitlines()[-1]
    )
    assert {
        "processor",
        "flags",
        "cores",
        "torch",
        "transformers",
        "python",
        "commit",
        "native",
        "environment",
        "source",
    } <= set(held["machine"])
    assert held["settings"] == BenchSettings(rounds=2, threads=1, memory=False).to_dict() and held[
        "command"
    ].startswith("ttr bench --rounds 2")
    assert [case["name"] for case in held["cases"]] == [
        "tiny.forward.H2.T8.D4",
        "tiny.forward.H2.T16.D4",
        "tiny.training.H2.T8.D4",
        "tiny.training.H2.T16.D4",
    ]
    for case in held["cases"]:
        assert set(case) == {
            "name",
            "family",
            "direction",
            "curve",
            "shape",
            "flops",
            "formula",
            "rows",
            "float64",
            "passes",
        }
        (passed,) = case["passes"]
        assert (
            passed["threads"] == 1
            and set(passed["rates"]) == {*machine.PRODUCTS, "copy"}
            and len(passed["rounds"]) >= 2
        )
        assert case["flops"] == (3 if case["direction"] == "training" else 1) * 2 * case["shape"][
            "time"
        ] * delta_flops(4, 4)
        timed = {row["name"] for row in case["rows"] if row["status"] == "timed"}
        assert all(
            set(r) == {"others", "clean", "samples"} and set(r["samples"]) == timed for r in passed["rounds"]
        )
        figures_of = Figures(case)
        assert figures_of.share("times 1.0") == pytest.approx(
            case["flops"] / figures_of.cpu("times 1.0")["median"] / 1e9
        )


def test_operations_are_those_of_the_chunked_algorithm():
    """T=4096, H=8, D=128, C=64: 98,304 of the additive form per token and head, as two products of scores (2
    C 128 each) and two with the memory (2 128 128 each)."""
    additive, delta = (next(f for f in FAMILIES if f.name == name) for name in ("additive", "gated-delta"))
    assert Case(additive, "forward", Shape(time=4096)).flops == 4096 * 8 * 98_304
    assert Case(delta, "training", Shape(time=4096)).flops == pytest.approx(
        3 * 4096 * 8 * (98_304 + 2 * 16_384 + 64 * 64 / 3 + 32_768)
    )
    assert Case(delta, "decode", Shape(time=1)).flops is None


def test_an_interrupted_run_keeps_what_is_finished(bench, monkeypatch):
    calls = []

    def prepare(x):
        calls.append(x["v"].shape[1])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return scaled(1.0).prepare(x)

    peer = Contestant("interrupted", "peer", prepare)
    with pytest.raises(UserError, match="The same command continues from here: ttr bench"):
        bench(family(peer))
    held, printed = bench(family(peer))
    assert calls == [8, 16, 16] and [case["shape"]["time"] for case in held["cases"]] == [8, 16]
    assert "tiny.forward.H2.T8.D4" in printed
    again, _ = bench(family(peer))
    assert calls == [8, 16, 16] and again == held


def test_measurements_of_other_arguments_or_another_source_are_not_mixed(bench, monkeypatch, tmp_path):
    held, _ = bench(family(times=(8,)))
    with pytest.raises(UserError, match="rounds changed"):
        bench(family(times=(8,)), rounds=2)
    (tmp_path / "out" / "bench.json").write_text(json.dumps(held | {"schema": 1}))
    with pytest.raises(UserError, match="cannot be continued .schema changed.. Choose another folder"):
        bench(family(times=(8,)))
    monkeypatch.setattr(machine, "source_digest", lambda: "another")
    with pytest.raises(UserError, match="source changed"):
        bench(family(times=(8,)))
    (tmp_path / "out" / "bench.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        bench(family(times=(8,)))


def test_the_axis_of_a_picture_takes_any_range():
    """A range without a tick, between 5 and 10, and one beyond the last decade."""
    for i in range(60):
        axes, low, high = Figure().subplots(), 10 ** (i / 10 - 4), 10 ** (i / 10 - 4 + i % 7 / 4)
        axes.plot([1, 2], [low, high])
        figures._finish(axes, [1, 2], "", LogLocator(10, subs=(1, 2, 5)), str)
        assert axes.get_ylim()[0] <= low and axes.get_ylim()[1] >= high


def test_a_picture_per_curve_with_two_lengths(bench, tmp_path):
    held, printed = bench(family(scaled(1.0), scaled(3.0, side="floor", compared=False)))
    (curve,) = figures.curves(held["cases"])
    path = tmp_path / "out" / f"{curve}.png"
    assert path.read_bytes().startswith(b"\x89PNG") and str(path) in printed
    assert not figures.curves(held["cases"][:1])


# ------------------------------------------------------------------------------------------------ the command
def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["ttr", "bench", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    return end.value.code, said.out, said.err


def test_the_list_shows_cases_and_available_contestants(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "transformers" else find(name)
    )
    code, out, _ = command(monkeypatch, capsys, "--list")
    assert code == 0 and all(case.name in out for case in cases(FAMILIES))
    assert (
        "ours  chunkwise-delta: ready" in out
        and "peer  softmax-attention: ready" in out
        and ("floor state-copy: ready") in out
    )
    assert "peer  mamba2: transformers is not installed. Use pip install 'test-time-regression[hf]'." in out
    code, out, _ = command(monkeypatch, capsys, "kda.forward", "--list", "--lengths", "64,32")
    assert "kda.forward.T32.D128  kda.forward.T64.D128" in out and "gated-delta" not in out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("mamba",), "There is no case 'mamba'. ttr bench --list shows the cases"),
        (("--engines", "fastest"), "There is no engine 'fastest'. Use one of kernel-sums"),
        (("--rounds", "0"), "--rounds must be at least 1, not 0."),
        (("--lengths", "0"), "--lengths must be at least 1, not 0."),
        (("--lengths", "long"), "--lengths takes numbers separated by commas, not 'long'."),
    ],
)
def test_what_cannot_be_run_is_one_sentence(monkeypatch, capsys, tmp_path, arguments, words):
    code, out, err = command(monkeypatch, capsys, *arguments, "--out", str(tmp_path / "out"))
    assert code == 1 and words in err and not (tmp_path / "out").exists()


def test_names_choose_cases_by_whole_words():
    known = cases(FAMILIES)

    def names(*chosen, **options):
        return [case.name for case in run.chosen(BenchSettings(cases=chosen, **options), known)]

    assert names() == [case.name for case in known if not case.family.on_request]
    assert len(names("catalogue")) == 2 * len(ttr.catalogue) and not set(names("catalogue")) & set(names())
    assert (
        names("gated-delta.decode.B4")
        == names("gated-delta.decode.B4.D128")
        == ["gated-delta.decode.B4.D128"]
    )
    assert set(name.split(".")[1] for name in names("kda", "additive.training")) == {"forward", "training"}
    assert (
        names("kda", quick=True)
        and max(case.shape.time for case in run.chosen(BenchSettings(quick=True), known)) <= run.QUICK_TIME
    )


def test_the_command_line_repeats_the_settings():
    settings = BenchSettings(
        cases=("kda",), engines=("a", "b"), lengths=(1, 2), rounds=9, onednn=True, memory=False, quick=True
    )
    assert settings.command() == (
        "ttr bench kda --engines a,b --lengths 1,2 --rounds 9 --onednn --no-memory --quick"
    )


def test_peers_and_safetensors_are_not_needed():
    script = (
        "import sys; sys.modules |= dict.fromkeys(('transformers', 'safetensors', 'fla'));"
        "from ttr.cli import main; sys.argv = ['ttr', 'bench', '--list']; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "ours  chunkwise-delta: ready" in done.stdout


@pytest.mark.parametrize(
    "seconds, words", [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.56e-5, "45.6 us"), (0.9996, "1000 ms")]
)
def test_durations_read_well(seconds, words):
    assert report.duration(seconds) == words


def test_an_engine_on_which_no_law_can_be_tried_has_no_contract(monkeypatch):
    assert broken_law(catalogue["retnet"].problem, ChunkwiseAdditive(16), LAWS[:1]) is None
    monkeypatch.setattr(
        ChunkwiseAdditive, "refuses", lambda self, problem, x=None: "No." if x is not None else None
    )
    assert "none was checked" in broken_law(catalogue["retnet"].problem, ChunkwiseAdditive(8), LAWS[:1])
