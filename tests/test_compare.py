"""``ttr compare``: it survives being killed, bad input and diverging models."""

import csv
import dataclasses
import io
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import torch
from rich.console import Console

import ttr
from ttr.cli import app
from ttr.experiments import command, language_model, protocol, records_probe, speed, tracking, training
from ttr.experiments import compare as comparing
from ttr.experiments.common_layer import common_layer
from ttr.experiments.compare import compare
from ttr.experiments.errors import UserError
from ttr.experiments.evaluation import MOST_BITS, bits_and_hits
from ttr.experiments.memories import PLAIN, Memory, build, equal_widths, memories, parameters
from ttr.experiments.plan import Plan
from ttr.experiments.references import UNIGRAM
from ttr.experiments.report import html, show
from ttr.experiments.settings import LAYERS, CompareSettings
from ttr.experiments.starting_point import NewDecoders
from ttr.experiments.storage import load_tensors, save_tensors, write
from ttr.models import TTRForCausalLM
from ttr.tasks.text import read_text, split, training_starts
from ttr.tasks.tokens import byte_tokens

TINY = {
    "layers": ("linear-attention", "softmax-attention-qknorm"),
    "steps": 6,
    "width": 16,
    "context": 32,
    "batch": 2,
    "head_size": 8,
    "depth": 1,
    "evaluation_windows": 24,
    "rounds": 1,
    "checkpoint_every": 2,
    "resamples": 100,
    "seeds": 1,
    "lr": 8e-3,
    "tuning_windows": 24,
}
SPEEDS = ("training_tokens_per_second", "decoding_tokens_per_second", "disturbed")


@pytest.fixture
def text(tmp_path):
    """Some kilobytes of text with repeated words and numbers that do not repeat."""
    generator = torch.Generator().manual_seed(0)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta"]
    drawn = torch.randint(0, 10_000, (4000,), generator=generator).tolist()
    path = tmp_path / "text.txt"
    path.write_text(" ".join(f"{words[n % 7]}{n % 11}" for n in drawn))
    return path


def tiny(text, tmp_path, **changes):
    return CompareSettings(**({"files": (text,), "out": tmp_path / "out"} | TINY | changes))


def run(settings):
    """Run a comparison; return the results and what was printed."""
    console = Console(file=io.StringIO(), width=100)
    return compare(settings, console), console.file.getvalue()


def cells(settings, label, kind=""):
    """The files of the cells whose label begins so: finished ones, or checkpoints."""
    hash_ = "[0-9a-f]" * 16
    return sorted((settings.out / "cells").glob(f"{label}*.{hash_}.{kind}safetensors"))


def windows_of(text, settings):
    return language_model.Windows(byte_tokens(read_text([text]).content), settings)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_times(results):
    """What does not depend on the clock."""
    rows = [{key: value for key, value in row.items() if key not in SPEEDS} for row in results["memories"]]
    untimed = {key: value for key, value in results.items() if key not in ("budget", "at_equal_time")}
    return untimed | {"memories": rows}


# --------------------------------------------------------------------------------------------- the comparison
def test_a_library_for_curves_that_is_not_there_is_told_before_anything_is_trained(text, tmp_path):
    settings = tiny(text, tmp_path, track="wandb")
    with pytest.raises(UserError, match="--track takes"):
        run(settings)
    assert not settings.out.exists()


@pytest.mark.parametrize("took, expected", [([10.0, 20.0, 30.0, 5.0], 90.0), ([10.0, 20.0, None], None)])
def test_more_seeds_take_as_long_as_their_share_of_the_third_stage(took, expected):
    known = types.SimpleNamespace(
        plan=types.SimpleNamespace(seconds=took), settings=types.SimpleNamespace(seeds=2)
    )
    assert comparing.Comparison._seconds_with(known, 4) == expected


def test_all_runs_are_tracked_and_change_nothing(text, tmp_path, monkeypatch):
    given = []
    monkeypatch.setitem(tracking.LIBRARIES, "tensorboard", lambda *run: given.append(run))
    monkeypatch.setattr(comparing, "check_installed", lambda library: None)
    plain, _ = run(tiny(text, tmp_path))
    tracked = tiny(text, tmp_path, track="tensorboard")
    results, _ = run(tracked)  # in the same folder: settings and cells are the same
    assert without_times(results) == without_times(plain)
    found = {(config["memory"], config["steps"]) for _, _, config, _ in given}
    assert found == {(name, steps) for name in (*TINY["layers"], PLAIN) for steps in (1, 3, 6)}
    labels = {label for _, label, _, _ in given}
    assert len(labels) == len(given) == 9 and all(cells(tracked, label) for label in labels)


def test_models_are_equal_within_one_percent():
    settings = CompareSettings()
    found = memories(settings)
    widths = equal_widths(found, settings)
    sizes = [parameters(build(m, settings, widths[m.name], 0)) for m in found]
    assert [m.name for m in found] == [*LAYERS, PLAIN] and max(sizes) < 1.01 * min(sizes)


def test_a_comparison_and_its_rerun(text, tmp_path, monkeypatch):
    settings = tiny(text, tmp_path)
    results, printed = run(settings)
    kept = contents(settings.out)
    assert {"results.json", "comparison.png", "report.html", "plan.json", "results.csv"} <= {
        path.name for path in kept
    }
    assert json.loads(kept[settings.out / "results.json"]) == results
    assert [row["name"] in printed for row in results["memories"]] == [True, True] and results["conclusion"][
        0
    ][:20] in printed
    page = kept[settings.out / "report.html"].decode()
    assert (
        all(name in page for name in (*settings.layers, UNIGRAM, PLAIN)) and "data:image/png;base64," in page
    )
    assert not re.search(r"""(?:src|href)=["'](?!data:)|url\(|@import""", page)
    for module, name in (
        *((language_model, name) for name in ("train", "starting_point_of", "bits_and_hits", "count")),
        (comparing, "speeds"),
    ):
        monkeypatch.setattr(
            module, name, lambda *a, name=name, **k: pytest.fail(f"the second call called {name}")
        )
    again, _ = run(settings)
    assert again == results and contents(settings.out) == kept
    tensors = [load_tensors(*cells(settings, f"{name}*steps6"))[0] for name in settings.layers]
    assert all(each["bits"].shape == each["replaced"].shape == (24, 32) for each in tensors)
    assert not any(torch.equal(each["bits"], each["replaced"]) for each in tensors)


def test_the_check_of_the_slice_reports_the_size_of_a_gap_of_either_sign(text, tmp_path):
    results, _ = run(tiny(text, tmp_path))
    for sign in (1, -1):
        for row, gap in zip(results["memories"], (0.0, 0.319)):
            row["slice_gap"]["value"] = sign * gap
            row["slice_gap_of_shuffled_mask"]["value"] = sign * gap / 2
        assert "at most 0.160 bits; with the real slice it is up to 0.319." in html(results, b"")


def test_the_page_says_what_is_larger_and_whose_seconds_are_counted(text, tmp_path):
    results, _ = run(tiny(text, tmp_path))
    few, thread = "on a few cores 2 layers and width 64", "bytes per second of CPU time, one thread on"
    page = html(results, b"")
    assert few not in page and thread in page
    results["settings"] |= {"width": 128, "device": "cuda"}
    page = html(results, b"")
    assert few in page and thread not in page and "bytes per second on this machine" in page


def test_a_gpu_is_waited_for_and_its_seconds_are_those_of_the_clock(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    monkeypatch.setattr(time, "process_time", lambda: -1.0)
    assert speed._now("cpu")[0] == -1.0 and not waited
    one, other = speed._now("cuda")
    assert 0 <= other - one < 1.0 and waited == ["cuda"]


def test_stopped_at_any_step_it_ends_at_the_same_numbers(text, tmp_path, monkeypatch):
    whole, _ = run(tiny(text, tmp_path, out=tmp_path / "whole"))
    settings = tiny(text, tmp_path)
    # steps until the next stop: one not after a checkpoint, one in the other memory's training, ...
    left = [13, 1, 3, 9]

    def interrupted(model, tokens):
        left[0] -= 1
        if left[0] == 0:
            left.pop(0)
            raise KeyboardInterrupt
        return loss(model, tokens)

    loss = training.next_token_loss
    monkeypatch.setattr(training, "next_token_loss", interrupted)
    for _ in range(4):
        with pytest.raises(UserError, match="continues from here"):
            run(settings)
    monkeypatch.setattr(training, "next_token_loss", loss)
    resumed, _ = run(settings)
    assert without_times(resumed) == without_times(whole) | {"command": resumed["command"]}


def test_killed_it_goes_on(text, tmp_path):
    settings = tiny(text, tmp_path, steps=3000)
    program = (
        "from pathlib import Path, PosixPath\nfrom rich.console import Console\nimport "
        "torch\ntorch.set_num_threads(1)\n"
        "from ttr.experiments.compare import compare\nfrom ttr.experiments.settings import "
        f"CompareSettings\ncompare({settings!r}, Console())"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if checkpoints := cells(settings, "linear-attention", "checkpoint."):
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < len(load_tensors(checkpoints[0])[0]["loss"]) < 3000


def test_rates_are_halved_then_the_best_runs_from_all_seeds(text, tmp_path):
    """By the cells that are there; a rate that learns nothing loses, and the one beyond the edge is tried."""
    settings = tiny(
        text,
        tmp_path,
        layers=("linear-attention",),
        steps=16,
        seeds=2,
        lr=None,
        learning_rates=(1e-6, 2e-3, 4e-3),
    )
    results, _ = run(settings)
    found = {path.name.rsplit(".", 2)[0] for path in cells(settings, "linear")}
    rate, beyond = results["memories"][0]["learning_rate"], 8e-3
    named = "linear-attention.seed{}.rate{}.steps{}".format
    assert found == {
        *(named(0, each, 2) for each in settings.rates),
        *(named(0, each, 8) for each in (settings.rates[-1], beyond)),
        *(named(seed, rate, 16) for seed in (0, 1)),
    }
    assert results["memories"][0]["rate_at_the_edge"] == (rate == beyond)
    comparison = comparing.Comparison(settings, None)
    with comparing.Bar(Console(file=io.StringIO())) as bar, comparing.workers(1) as compute:
        comparison.train(comparison.clock(bar), compute, bar)
    tuned = [load_tensors(*cells(settings, named(0, each, 2)))[1]["facts"] for each in settings.rates]
    least = min(settings.rates, key=lambda each: tuned[settings.rates.index(each)]["tuning_bits_per_byte"])
    bits = load_tensors(*cells(settings, named(0, least, 2)))[0]["bits"]
    assert torch.equal(comparison.measured("linear-attention").earlier[2], bits)


# -------------------------------------------------------------------------------------------------- its files
def test_the_trained_models_open_and_spend_the_bits_that_are_reported(text, tmp_path):
    settings = tiny(text, tmp_path, layers=("linear-attention", "softmax-attention:1"))
    run(settings)
    windows = windows_of(text, settings).validation.ids
    for memory in memories(settings)[:2]:
        folder = settings.out / "models" / memory.label
        model = TTRForCausalLM.from_pretrained(folder)
        tensors, _ = load_tensors(*cells(settings, f"{memory.label}*steps6"))
        bits, hits = bits_and_hits(model, windows, settings.batch)
        assert torch.equal(bits, tensors["bits"]) and torch.equal(hits, tensors["hits"])
    assert not list(settings.out.glob("models/.*"))


def test_every_run_is_a_line_of_the_csv_file(text, tmp_path):
    settings = tiny(text, tmp_path, seeds=2)
    results, _ = run(settings)
    rows = list(csv.DictReader((settings.out / "results.csv").read_text().splitlines()))
    stages = Plan.read(settings.out / "plan.json").stages
    assert len(rows) == sum(len(stage.runs) for stage in stages)
    for row in results["memories"]:
        own = [float(r["bits_per_byte"]) for r in rows if r["memory"] == row["name"] and r["stage"] == "3"]
        assert sum(own) / len(own) == pytest.approx(row["bits_per_byte"]["all"]["value"]) and len(own) == 2


def test_samples_positions_and_windows_are_those_of_the_text(text, tmp_path):
    results, _ = run(tiny(text, tmp_path))
    content, windows = text.read_text(), windows_of(text, tiny(text, tmp_path))
    prompt = bytes(windows.validation.ids[0, : results["given"]].tolist()).decode()
    assert set(results["samples"]) == set(TINY["layers"])
    assert all(sample.startswith(prompt) for sample in results["samples"].values())
    for kind in ("hardest", "easiest"):
        for window in results[kind]:
            assert content[window["byte"] :].startswith(window["text"]) and window["file"] == str(text)
    assert results["hardest"][0]["bits"] > results["easiest"][0]["bits"]
    assert results["by_position"]["ends"] == [32, 64, 128, 256, 512]
    name = results["memories"][0]["name"]
    long = load_tensors(*cells(tiny(text, tmp_path), f"{name}*steps6"))[0]["long"]
    assert results["by_position"]["bits_per_byte"][name][1] == pytest.approx(long[:, 32:64].mean().item())


# --------------------------------------------------------------------------------------------- time and plan
COST = 0.02
"""Seconds of a step that timed comparisons are told, so that a few seconds are a few steps."""


STAGES = ["every learning rate", "the best learning rates", "all memories"]


@pytest.fixture
def timed(monkeypatch):
    """Every memory takes the same, and the clock moves by a fifth of a second whenever it is asked,
    whatever this machine does."""

    def told(start, found, *_):
        return dict.fromkeys([memory.name for memory in found], COST)

    now = itertools.count(0.0, 0.2)
    monkeypatch.setattr(comparing, "monotonic", lambda: next(now))
    monkeypatch.setattr(comparing, "seconds_per_step", told)
    monkeypatch.setattr(protocol.Clock, "took", lambda *_: None)


@pytest.mark.full
def test_a_timed_comparison_is_repeated_to_the_bit_by_its_plan(timed, text, tmp_path):
    settings = tiny(text, tmp_path, steps=None, time=12.0, seeds=2, lr=None)
    results, printed = run(settings)
    plan = Plan.read(settings.out / "plan.json")
    steps = results["budget"]["steps"]
    assert plan.complete and [len(stage.runs) for stage in plan.stages[:3]] == [9, 6, 6]
    assert steps == plan.stages[2].runs[0].steps > 6 and "After " in printed
    replayed = CompareSettings.from_dict(plan.about["settings"], out=tmp_path / "again", jobs=2)
    again = compare(replayed, Console(file=io.StringIO()), plan)
    assert Plan.read(replayed.out / "plan.json").stages == plan.stages
    first, second = ({path.name: path.read_bytes() for path in cells(s, "")} for s in (settings, replayed))
    assert first == second and len(first) == 3 + sum(len(stage.runs) for stage in plan.stages)
    assert without_times(again) == without_times(results) | {"command": again["command"]}
    assert run(settings)[0] == results  # complete: nothing is decided anew


def test_what_is_open_gets_further_seeds_until_the_time_is_over(timed, text, tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "undecided", lambda measured, *_: [each.name for each in measured])
    path = tmp_path / "mine.py"
    path.write_text("import ttr\nmemories = dict.fromkeys('ab', ttr.catalogue['linear-attention'])\n")
    settings = tiny(text, tmp_path, layers=(), memory=path, steps=None, time=5.0, seeds=2)
    results, _ = run(settings)
    titles = [stage["title"] for stage in results["budget"]["stages"]]
    assert titles == [*STAGES, "further seeds of a, b"]
    last = Plan.read(settings.out / "plan.json").stages[3]
    assert {row["seeds"] for row in results["memories"]} == {2 + len(last.runs) // 2}
    assert {run.seed for run in last.runs} == set(range(2, 2 + len(last.runs) // 2))


def test_a_second_process_takes_over_the_stages_of_the_first(timed, text, tmp_path):
    """Killed after its second stage, and continued by one whose clock would decide otherwise."""
    settings = tiny(text, tmp_path, steps=None, time=4.0)
    run(settings)
    path = settings.out / "plan.json"
    held = json.loads(path.read_bytes())
    del held["stages"][2:]
    for stage in held["stages"]:
        stage["seconds"] = 7.0
    path.write_text(json.dumps(held | {"complete": False}))
    before = Plan.read(path).stages
    run(settings)
    after = Plan.read(path)
    assert after.stages[:2] == before and len(after.stages) >= 3 and after.complete
    assert after.seconds[:2] == [7.0, 7.0] and None not in after.seconds


def test_a_plan_that_was_stopped_early_is_not_repeated(text, tmp_path):
    settings = tiny(text, tmp_path, steps=2)
    run(settings)
    plan = Plan.read(settings.out / "plan.json")
    del plan.stages[protocol.FULL :]
    again = CompareSettings.from_dict(plan.about["settings"], out=tmp_path / "again")
    with pytest.raises(UserError, match="stopped before.*Finish that comparison first"):
        compare(again, Console(file=io.StringIO()), plan)


def test_a_plan_of_another_text_is_not_repeated(text, tmp_path):
    settings = tiny(text, tmp_path, steps=2)
    run(settings)
    plan = Plan.read(settings.out / "plan.json")
    with text.open("a") as file:
        file.write("more")
    again = CompareSettings.from_dict(plan.about["settings"], out=tmp_path / "again")
    with pytest.raises(UserError, match="plan of another comparison .*sha256 changed"):
        compare(again, Console(file=io.StringIO()), plan)
    with pytest.raises(UserError, match="no plan"):
        Plan.read(tmp_path / "nowhere.json")


@pytest.mark.full
def test_a_plan_gives_the_same_bits_killed_at_ten_moments_by_two_processes_and_by_two_runs(text, tmp_path):
    settings = tiny(text, tmp_path, steps=400, seeds=2, checkpoint_every=10)
    run(settings)
    plan, whole = settings.out / "plan.json", {path.name: path.read_bytes() for path in cells(settings, "")}

    def begin(name, jobs):
        program = "from ttr.cli import main\nif __name__ == '__main__':\n    main()"
        (tmp_path / "run.py").write_text(program)
        words = ["compare", "--plan", plan, "--out", tmp_path / name, "--jobs", str(jobs)]
        return subprocess.Popen(
            [sys.executable, tmp_path / "run.py", *words], stdout=subprocess.DEVNULL, start_new_session=True
        )

    def found(name):
        return {
            path.name: path.read_bytes()
            for path in cells(dataclasses.replace(settings, out=tmp_path / name), "")
        }

    generator, kills = torch.Generator().manual_seed(0), 0
    for _ in range(10):
        process = begin("killed", 2)
        try:
            process.wait(5 + 4 * torch.rand(1, generator=generator).item())
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills >= 3 and begin("killed", 2).wait() == 0 and found("killed") == whole
    both = [begin("shared", 1) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0] and found("shared") == whole


# --------------------------------------------------------------------------------------------------- memories
def test_a_hybrid_is_a_comparison_of_its_layers_in_turn(text, tmp_path):
    settings = tiny(text, tmp_path, layers=("linear-attention:2+softmax-attention",), depth=3)
    memory = memories(settings)[0]
    single = tuple(
        memories(tiny(text, tmp_path, layers=(name,)))[0].layers[0]
        for name in ("linear-attention", "softmax-attention")
    )
    assert tuple(memory.layers) == (single[0], single[0], single[1])
    assert build(memory, settings, 16, 0).config.layers == list(memory.layers)
    for layers, depth, sentence in (
        (settings.layers, 4, "Use --depth 3"),
        (("linear-attention:x",), 2, "for example linear-attention:3"),
        (("linear-attention+sofd",), 2, "no memory called 'sofd'"),
    ):
        with pytest.raises(UserError, match=sentence):
            memories(tiny(text, tmp_path, layers=layers, depth=depth))


def test_a_memory_from_a_file(text, tmp_path):
    path = tmp_path / "my_memory.py"
    path.write_text(
        "import ttr\nfrom ttr.weights.geometric import Geometric\nfrom ttr.functions.linear "
        "import Linear\n"
        "from ttr.solvers.implicit_delta_rule import ImplicitDeltaRule\n"
        "memory = ttr.Problem(weights=Geometric(per='head'), function=Linear(), "
        "solver=ImplicitDeltaRule())\n"
    )
    results, _ = run(tiny(text, tmp_path, layers=("linear-attention",), memory=path))
    assert {row["name"] for row in results["memories"]} == {"linear-attention", "my_memory"}
    path.write_text(path.read_text() + "# changed\n")
    with pytest.raises(UserError, match="definition of my_memory"):
        run(tiny(text, tmp_path, layers=("linear-attention",), memory=path))


def test_a_training_that_diverges_is_reported_and_stops_no_other(text, tmp_path, monkeypatch):
    whole = training.next_token_loss
    steps = 3 * (1 + 3)  # of the shorter runs of both memories and the plain transformer
    factors = itertools.chain([1.0] * (steps + 3), [float("nan")], itertools.repeat(1.0))

    def diverging(model, tokens):
        return whole(model, tokens) * next(factors)

    monkeypatch.setattr(training, "next_token_loss", diverging)
    results, printed = run(tiny(text, tmp_path))
    rows = {row["name"]: row for row in results["memories"]}
    assert rows["linear-attention"]["diverged_at"] == [4] and rows["softmax-attention-qknorm"][
        "diverged_at"
    ] == [None]
    assert "diverged at step 4" in " ".join(printed.split())


@pytest.mark.parametrize("steps, diverged_at", [(6, 2), (1, None)])
def test_a_rate_that_breaks_the_models_breaks_nothing_else(steps, diverged_at, text, tmp_path):
    """The second loss is not finite, so the first update is undone; after a single step that is not yet
    visible."""
    results, _ = run(tiny(text, tmp_path, steps=steps, lr=1e20))
    assert [row["diverged_at"] for row in results["memories"]] == [[diverged_at]] * 2
    bits = [row["bits_per_byte"]["all"]["value"] for row in results["memories"]]
    assert max(bits) < 9 if diverged_at else 9 < min(bits) <= max(bits) <= MOST_BITS
    assert "no better than the byte frequencies" in results["conclusion"][0]


def test_a_training_that_diverges_ends_before_the_update_that_led_there(text, tmp_path, monkeypatch):
    settings = tiny(text, tmp_path, checkpoint_every=1)
    content = read_text([text]).content
    starts = training_starts(
        split(len(content), settings.context).train, settings.context, settings.steps, settings.batch, 0
    )
    whole = training.next_token_loss

    def trained(name, fate):
        """Train; return the parameters, and the history or None. ``fate`` determines the n-th loss of this
        call, counted from 1."""
        calls = []

        def loss(model, tokens):
            calls.append(1)
            what = fate.get(len(calls), 1.0)
            if what is None:
                raise KeyboardInterrupt
            return whole(model, tokens) * what

        monkeypatch.setattr(training, "next_token_loss", loss)
        model = build(memories(settings)[0], settings, 16, 0)
        history = None
        try:
            loss_of = training.loss_on(model, byte_tokens(content), starts, settings)
            history = training.train(
                model, loss_of, len(starts), 1e-2, settings, tmp_path / name, {}, lambda _: None
            )
        except KeyboardInterrupt:
            pass
        return [p.detach().clone() for p in model.parameters()], history

    nan = float("nan")
    two_updates, _ = trained("stopped", {3: None})
    diverged, history = trained("diverged", {4: nan})
    assert history.diverged_at == 4 and len(history.loss) == 3
    trained("resumed", {4: None})
    resumed, _ = trained("resumed", {1: nan})
    again, _ = trained("diverged", {})
    for found in (diverged, resumed, again):
        assert all(torch.equal(a, b) for a, b in zip(found, two_updates, strict=True))


def test_memories_share_one_layer_and_stand_as_published_beside_it():
    entry, names = ttr.catalogue["softmax-attention-qknorm"], ("softmax-attention-qknorm",)
    common, published, plain = memories(CompareSettings(layers=names, as_published=True))
    assert list(published.layers) == [entry.to_dict()] != list(common.layers)
    assert list(common.layers) == [common_layer(entry).to_dict()] and not plain.layers


def test_published_layers_have_a_table_and_a_sentence_of_their_own(text, tmp_path):
    results, printed = run(tiny(text, tmp_path, as_published=True))
    names = [f"{name} as published" for name in TINY["layers"]]
    assert {row["name"] for row in results["published"]["memories"]} == set(names)
    assert {row["name"] for row in results["memories"]} == set(TINY["layers"])
    assert any(sentence.startswith("In the layers as published: ") for sentence in results["conclusion"])
    assert all(name.split()[0] in printed for name in names)


def test_the_table_in_the_terminal_fits_80_columns_and_breaks_no_name(text, tmp_path):
    results, _ = run(tiny(text, tmp_path))
    results["memories"][0]["disturbed"] = True
    console = Console(file=io.StringIO(), width=80)
    show(results, console)
    printed = console.file.getvalue()
    assert max(map(len, printed.splitlines())) <= 80 and re.search(r"[0-9]\?", printed)
    assert all(row["name"] in printed for row in (*results["memories"], *results["references"]))


def test_speeds_are_cpu_time_in_turn_and_disturbed_where_the_wall_shows_more(monkeypatch):
    """A clock by which every action of the first memory takes 2 s of CPU and as long by the wall, of the
    second 4 s and 6; the first round, which warms up, takes 50 s longer."""
    clock, turns = {"cpu": 0.0, "wall": 0.0}, []

    class Action:
        def __init__(self, model, *_):
            self.name = model

        def prepare(self):
            clock["cpu"] += 100.0

        def run(self):
            taken, factor = {"a": (2.0, 1.0), "b": (4.0, 1.5)}[self.name]
            warming = 50.0 if len(turns) < 4 else 0.0
            clock["cpu"] += taken + warming
            clock["wall"] += factor * taken + warming
            turns.append(self.name)

    class Model(str):
        def to(self, device):
            return self

    start = NewDecoders(CompareSettings(), {}, 0)
    monkeypatch.setattr(start, "build", lambda memory, _: Model(memory.name))
    monkeypatch.setattr(speed, "_Training", Action)
    monkeypatch.setattr(speed, "_Decoding", Action)
    monkeypatch.setattr(speed.time, "process_time", lambda: clock["cpu"])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock["wall"])
    found = [Memory(name, [], "test") for name in "ab"]
    settings = CompareSettings(rounds=1, batch=4, context=32)
    windows = torch.zeros(9, 33, dtype=torch.int64)
    figures = speed.speeds(start, found, settings, windows, windows[:1, :-1])
    assert turns == ["a", "a", "b", "b"] * 2
    assert figures["a"] == {
        "training_tokens_per_second": 4 * 32 / 2,
        "decoding_tokens_per_second": speed.DECODED / 2,
        "disturbed": False,
    }
    assert figures["b"]["training_tokens_per_second"] == 4 * 32 / 4 and figures["b"]["disturbed"]


@pytest.mark.full
def test_components_of_a_users_file_are_known_to_all_processes(text, tmp_path):
    path = tmp_path / "my_memory.py"
    path.write_text(
        "import dataclasses\nimport ttr\n\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Mine(ttr.weights.Geometric):\n"
        "    pass\n\n"
        "memory = ttr.Problem(Mine(), ttr.functions.Linear(), ttr.solvers.OneStep())\n"
        "memories = {'a': memory, 'b': memory}\n"
    )
    results, _ = run(tiny(text, tmp_path, layers=(), memory=path, jobs=2))
    first, second = results["memories"]
    assert first["bits_per_byte"] == second["bits_per_byte"]


# -------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    "content, sentence", [(b"", "is empty"), (b"a\x00b" * 9000, "NUL"), (b"too short", "more text")]
)
def test_bad_text_is_refused_in_a_sentence(content, sentence, tmp_path):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        run(tiny(path, tmp_path))
    assert not (tmp_path / "out").exists()


def test_copies_among_the_files_are_said_before_and_after(text, tmp_path):
    copy = tmp_path / "copy.txt"
    copy.write_bytes(text.read_bytes())
    results, printed = run(tiny(text, tmp_path, files=(text, copy), steps=1))
    assert "hold the same bytes" in results["conclusion"][-1]
    assert " ".join(printed.split()).count("hold the same bytes") == 2


def test_missing_files_and_folders_are_named(tmp_path):
    for path, sentence in (
        (tmp_path / "nowhere.txt", "no file"),
        (tmp_path, "is a folder"),
        (tmp_path / ("n" * 256), "cannot be read"),
    ):
        with pytest.raises(ValueError, match=sentence) as caught:
            read_text([path])
        assert str(path) in str(caught.value)


def test_a_context_longer_than_the_text_names_one_that_fits(text, tmp_path):
    with pytest.raises(UserError, match=r"Use --context (\d+) or less") as caught:
        run(tiny(text, tmp_path, context=5000))
    fitting = int(re.search(r"--context (\d+)", str(caught.value))[1])
    split(text.stat().st_size, fitting)
    with pytest.raises(ValueError):
        split(text.stat().st_size, fitting + 1)


def test_an_unknown_layer_brings_similar_names(text, tmp_path):
    with pytest.raises(UserError, match="gated-deltanet"):
        run(tiny(text, tmp_path, layers=("gated-deltanets",)))


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"width": 20},
        {"context": 3},
        {"layers": ()},
        {"seeds": 0},
        {"seed": -1},
        {"seed": 2**62},
        {"time": 0.0},
        {"time": float("nan")},
        {"lr": -1.0},
        {"depth": 0},
        {"seed": 10**30},
    ],
)
def test_settings_that_cannot_be_are_refused(changes):
    with pytest.raises(UserError):
        CompareSettings(**changes)


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("x = 1", "defines no memory"),
        ("memory = 3", "neither a Problem"),
        ("1 / 0", "ZeroDivisionError"),
        ("memories = [1]", "not a dict"),
        ("memories = ['a']", "not a dict"),
        ("import ttr; memories = {'m' * 65: ttr.catalogue['gla']}", "cannot name a memory. Use at most 64"),
        ("memories = {1: 2}", "not a dict"),
        ("memories = {}", "defines no memory"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        (None, "no Python file.*Name a .py file"),
    ],
)
def test_a_bad_memory_file_is_named(content, sentence, text, tmp_path):
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=sentence) as caught:
        run(tiny(text, tmp_path, memory=path))
    assert str(path) in str(caught.value)


def test_a_folder_that_cannot_be_written_is_named(text, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        run(tiny(text, tmp_path, out=tmp_path / "file" / "out"))


def test_a_folder_with_other_results_is_not_changed(text, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("mine")
    with pytest.raises(UserError, match="results.json"):
        run(tiny(text, tmp_path))
    assert (tmp_path / "out" / "results.json").read_text() == "mine"


def test_runs_of_another_comparison_are_not_taken_over(text, tmp_path):
    settings, other = tiny(text, tmp_path, steps=2), tiny(text, tmp_path, steps=4, out=tmp_path / "other")
    run(settings)
    run(other)
    for name in ("results.json", "results.csv", "comparison.png", "report.html", "plan.json"):
        (settings.out / name).unlink()
    kept = contents(settings.out)
    with pytest.raises(UserError, match="holds cells but no plan.json"):
        run(dataclasses.replace(settings, steps=4))
    assert contents(settings.out) == kept
    (settings.out / "plan.json").write_bytes((other.out / "plan.json").read_bytes())
    again, _ = run(dataclasses.replace(settings, steps=4))
    whole = json.loads((other.out / "results.json").read_bytes())
    assert without_times(again) == without_times(whole) | {"command": again["command"]}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda held: held.pop("command"),
        lambda held: held.pop("versions"),
        lambda held: held.update(versions=[1]),
        lambda held: held.update(command=3),
        lambda held: held.update(settings=[]),
        lambda held: held["settings"].pop("files"),
        lambda held: held["settings"].update(steps="many"),
        lambda held: held.pop("stages"),
        lambda held: held["stages"][0].pop("seconds"),
        lambda held: held["stages"][0]["runs"][0].pop("rate"),
        None,
    ],
)
def test_a_plan_that_is_not_whole_is_named(spoil, text, tmp_path):
    settings = tiny(text, tmp_path, steps=1)
    path = settings.out / "plan.json"
    run(settings)
    held = json.loads(path.read_bytes())
    path.unlink()
    if spoil is None:
        path.mkdir()
    else:
        spoil(held)
        path.write_text(json.dumps(held))
    kept = contents(settings.out)
    with pytest.raises(UserError, match="plan.json is damaged"):
        run(settings)
    assert contents(settings.out) == kept


def test_other_arguments_leave_a_folder_alone(text, tmp_path):
    run(tiny(text, tmp_path, steps=2))
    kept = contents(tmp_path / "out")
    with pytest.raises(UserError, match="steps"):
        run(tiny(text, tmp_path, steps=4))
    with text.open("a") as file:
        file.write("more")
    with pytest.raises(UserError, match="sha256"):
        run(tiny(text, tmp_path, steps=2))
    assert contents(tmp_path / "out") == kept


def test_a_damaged_resume_file_is_named_and_nothing_is_touched(text, tmp_path, monkeypatch):
    settings = tiny(text, tmp_path, steps=2, checkpoint_every=1)
    run(settings)
    loss, calls = training.next_token_loss, []

    def interrupted(model, tokens):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return loss(model, tokens)

    for path in cells(settings, "linear-attention"):
        path.unlink()
    with monkeypatch.context() as patch, pytest.raises(UserError, match="continues from here"):
        patch.setattr(training, "next_token_loss", interrupted)
        run(settings)
    for path in (
        settings.out / "plan.json",
        *cells(settings, "linear-attention", "checkpoint."),
        *cells(settings, "n-grams"),
        *cells(settings, "softmax-attention-qknorm"),
    ):
        whole = path.read_bytes()
        flipped = whole[:-40] + bytes([whole[-40] ^ 0xFF]) + whole[-39:]
        for damaged in (
            whole[: len(whole) // 2],
            b"",
            flipped,
            b"[" * 100_000,
            _header(b"[" * 100_000),
            _header(b'{"__metadata__": 3}'),
        ):
            path.write_bytes(damaged)
            kept = contents(settings.out)
            with pytest.raises(UserError) as caught:
                run(settings)
            assert str(path) in str(caught.value)
            assert contents(settings.out) == kept
        path.write_bytes(whole)


def _header(text):
    """A safetensors file with nothing but a header."""
    return len(text).to_bytes(8, "little") + text


def test_several_writers_of_one_file_leave_one_of_their_files(tmp_path):
    path, failed = tmp_path / ("n" * 255), []

    def again(content):
        try:
            for _ in range(40):
                write(path, content)
        except Exception as failure:
            failed.append(failure)

    contents = [bytes([n]) * 50_000 for n in range(4)]
    writers = [threading.Thread(target=again, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failed and path.read_bytes() in contents and list(tmp_path.iterdir()) == [path]


@pytest.mark.full
def test_names_that_are_no_utf8_are_compared_and_shown(text, tmp_path):
    """On the command line, with a terminal that supports only ASCII."""
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/a\xe9\xff")
    os.rename(text, odd)
    options = [
        "--layers",
        "linear-attention",
        "--steps",
        "1",
        "--width",
        "32",
        "--context",
        "32",
        "--jobs",
        "1",
        "--out",
        odd + "-out",
    ]

    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-c", "from ttr.cli import main; main()", "compare", *arguments],
            capture_output=True,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
        )

    whole = command(odd, *options)
    assert whole.returncode == 0, whole.stderr.decode()
    assert json.loads((Path(odd + "-out") / "results.json").read_bytes())["text"]["files"] == [odd]
    missing = command(odd + "x")
    assert (
        missing.returncode == 1 and missing.stderr.count(b"\n") == 1 and b"There is no file" in missing.stderr
    )


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file.safetensors"
    save_tensors(path, {"x": torch.ones(3)}, {"n": 1})

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space"):
        save_tensors(path, {"x": torch.zeros(3)}, {"n": 2})
    tensors, facts = load_tensors(path)
    assert (
        tensors["x"].tolist() == [1.0, 1.0, 1.0] and facts == {"n": 1} and list(tmp_path.iterdir()) == [path]
    )


@pytest.mark.parametrize(
    "settings",
    [
        CompareSettings(files=(Path("a b.txt"),), steps=7, as_published=True, layers=("gla", "gla:2+mamba")),
        CompareSettings(time=90.0, lr=1.5, depth=4, width=64, context=128, batch=2, seed=3, seeds=5),
        CompareSettings(memory=Path("mine.py"), out=Path("there"), device="cuda"),
        CompareSettings(tokenizer=Path("a tokenizer.json"), context=3),
        CompareSettings(pretrained=Path("a model"), convert="0,2", context=128, as_published=True),
    ],
)
def test_the_command_line_is_that_of_its_settings(settings, monkeypatch):
    given = []
    monkeypatch.setattr(comparing, "compare", lambda *found: given.append(found[0]))
    app(shlex.split(settings.command())[1:], standalone_mode=False)
    assert [dataclasses.replace(found, jobs=1) for found in given] == [settings]


@pytest.mark.parametrize(
    "options, cores, expected",
    [
        ([], 2, (64, 2, 256, 8)),
        ([], 64, (128, 2, 512, 8)),
        (["--width", "32"], 64, (32, 2, 512, 8)),
        (["--device", "cuda", "--depth", "6"], 2, (256, 6, 1024, 16)),
    ],
)
def test_models_are_larger_where_there_is_room(options, cores, expected, monkeypatch):
    given = []
    monkeypatch.setattr(comparing, "compare", lambda *found: given.append(found[0]))
    monkeypatch.setattr(command, "CORES", cores)
    app(["compare", *options], standalone_mode=False)
    assert [(s.width, s.depth, s.context, s.batch) for s in given] == [expected]


def test_time_and_steps_exclude_each_other(monkeypatch):
    with pytest.raises(UserError, match="Give one of them"):
        app(["compare", "--time", "1m", "--steps", "3"], standalone_mode=False)


def test_the_command_line_repeats_a_plan(text, tmp_path, monkeypatch):
    settings = tiny(text, tmp_path, steps=1)
    run(settings)
    given = []
    monkeypatch.setattr(comparing, "compare", lambda found, _, plan: given.append((found, plan.stages)))
    plan = settings.out / "plan.json"
    app(["compare", "--plan", str(plan), "--out", "there", "--jobs", "3"], standalone_mode=False)
    assert given == [(dataclasses.replace(settings, out=Path("there"), jobs=3), Plan.read(plan).stages)]


def test_the_command_line_of_the_probe_has_its_settings(monkeypatch):
    given = []
    monkeypatch.setattr(records_probe, "probe", lambda settings, _: given.append(settings))
    app(["recall", "--jobs", "1"], standalone_mode=False)
    app(
        ["recall", "--layers", "gla, retnet", "--seeds", "2", "--jobs", "1", "--out", "x"],
        standalone_mode=False,
    )
    default = records_probe.ProbeSettings()
    assert given == [default, dataclasses.replace(default, layers=("gla", "retnet"), seeds=2, out=Path("x"))]


def test_the_command_states_the_sizes_whose_defaults_depend_on_the_machine():
    settings = CompareSettings(files=(Path("a b.txt"),), steps=7, as_published=True, layers=("gla",))
    sizes = "--width 64 --depth 2 --context 256 --batch 8"
    assert settings.command() == f"ttr compare 'a b.txt' --layers gla --steps 7 {sizes} --as-published"
