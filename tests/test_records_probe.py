"""The probe with planted records: what it trains on, what it reports, and that it resumes."""

import dataclasses
import io
import json
import math

import pytest
import torch
from rich.console import Console

from ttr.experiments.cells import Cell, run
from ttr.experiments.errors import UserError
from ttr.experiments.memories import memories
from ttr.experiments.records_probe import TRAIN, ProbeSettings, figures_of, probe, training_records
from ttr.experiments.settings import CompareSettings
from ttr.experiments.workers import workers
from ttr.tasks.records import CHANCE_BITS, records

TINY = ProbeSettings(
    layers=("linear-attention", "softmax-attention-qknorm"),
    steps=4,
    width=16,
    head_size=8,
    context=40,
    batch=2,
    pairs_trained=(1, 2),
    pairs_judged=(2, 4),
    judged_windows=3,
    seeds=2,
)


def probed(settings: ProbeSettings) -> tuple[dict, str]:
    console = Console(file=io.StringIO(), width=160)
    return probe(settings, console), console.file.getvalue()


def test_a_probe_reports_every_memory_and_is_the_same_when_repeated(tmp_path):
    settings = dataclasses.replace(TINY, out=tmp_path)
    results, shown = probed(settings)
    assert list(results["memories"]) == list(TINY.layers)
    for name, row in results["memories"].items():
        assert name in shown and row["learning_rate"] in TINY.learning_rates and row["state_bytes"] > 0
        for pairs in ("2", "4"):
            figures = row["pairs"][pairs]
            assert len(figures["gain"]) == len(figures["accuracy"]) == 2
            assert max(figures["gain"]) < 0.5  # nothing is learned in four steps
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert (tmp_path / "records.png").read_bytes().startswith(b"\x89PNG")
    cells = sorted((tmp_path / "cells").glob("*.safetensors"))
    written = [path.stat().st_mtime_ns for path in cells]
    assert len(cells) == 2 * (2 + 2)  # two rates from the tuning seed, and two seeds
    assert probed(settings)[0] == results and [path.stat().st_mtime_ns for path in cells] == written


def test_one_rate_needs_no_tuning(tmp_path):
    rate = 1e-2
    results, _ = probed(dataclasses.replace(TINY, out=tmp_path, learning_rates=(rate,), seeds=1))
    assert len(list((tmp_path / "cells").glob("*.safetensors"))) == 2
    assert {row["learning_rate"] for row in results["memories"].values()} == {rate}


def test_larger_heads_are_larger_states_with_runs_of_their_own(tmp_path):
    """A recurrent state holds width x size numbers in each layer; a cache of pairs hardly depends on it."""
    settings = dataclasses.replace(TINY, out=tmp_path, further_head_sizes=(4, 16))
    results, shown = probed(settings)
    states = {
        name: {size["head_size"]: size["state_bytes"] for size in (row, *row["other_head_sizes"])}
        for name, row in results["memories"].items()
    }
    linear, softmax = states["linear-attention"], states["softmax-attention-qknorm"]
    layers, numbers = TINY.depth, 4
    assert linear[8] - linear[4] == layers * TINY.width * 4 * numbers
    assert linear[16] - linear[8] == layers * TINY.width * 8 * numbers
    assert max(softmax.values()) < 1.1 * min(softmax.values())
    assert len(list((tmp_path / "cells").glob("*.safetensors"))) == 3 * 2 * (2 + 2)
    assert "linear-attention, heads of 16" in shown
    alone = probed(dataclasses.replace(TINY, out=tmp_path / "alone", head_size=16))[0]
    for name, row in alone["memories"].items():
        assert results["memories"][name]["other_head_sizes"][1]["pairs"] == row["pairs"]


def test_no_record_is_read_twice():
    content, starts = training_records(TINY, seed=0)
    windows = content.view(-1, TINY.context + 1)
    assert starts.shape == (TINY.steps, TINY.batch)
    assert starts.flatten().tolist() == list(range(0, len(content), TINY.context + 1))
    assert len({bytes(window.tolist()) for window in windows}) == len(windows)
    again, other = (training_records(TINY, seed)[0] for seed in (0, 1))
    assert torch.equal(content, again) and not torch.equal(content, other)


def test_steps_differ_in_their_number_of_pairs():
    """With one pair the first record of four bytes is the second one too, in all windows of the step."""
    content, _ = training_records(dataclasses.replace(TINY, steps=40), seed=0)
    steps = content.view(40, TINY.batch, -1)
    one_pair = (steps[..., :4] == steps[..., 4:8]).all(-1)
    assert torch.equal(one_pair.any(1), one_pair.all(1)) and 0 < one_pair[:, 0].sum() < 40


def test_figures_are_about_first_repetitions():
    """Bits that are 1 where a value is repeated first, 2 where again, 5 where it is new."""
    stated = records(TINY.records(2), TINY.judged_windows, 0).stated
    four = records(TINY.records(4), TINY.judged_windows, 0).stated

    def bits(stated):
        return 5.0 - 4.0 * (stated == 1) - 3.0 * (stated > 1)

    tensors = {"bits.2": bits(stated), "bits.4": bits(four), "hits.2": stated == 1, "hits.4": four > 1}
    facts = {"learning_rate": 1e-2, "parameters": 7, "state_bytes": 8, "diverged_at": None}
    found = figures_of(TINY, [(tensors, facts)])["pairs"]
    assert math.isclose(found["2"]["gain"][0], CHANCE_BITS - 1) and found["2"]["accuracy"] == [1.0]
    assert math.isclose(found["2"]["gain_when_repeated_again"][0], CHANCE_BITS - 2)
    assert found["2"]["bits_of_new_values"] == [5.0] and found["4"]["accuracy"] == [0.0]


def test_a_window_without_a_second_repetition_says_so():
    settings = dataclasses.replace(TINY, pairs_judged=(5,))
    stated = records(settings.records(5), TINY.judged_windows, 0).stated
    tensors = {"bits.5": stated.double(), "hits.5": stated == 1}
    facts = {"learning_rate": 1e-2, "parameters": 7, "state_bytes": 8, "diverged_at": None}
    assert figures_of(settings, [(tensors, facts)])["pairs"]["5"]["gain_when_repeated_again"] is None


def test_a_stopped_cell_resumes_to_the_same_bits(tmp_path):
    """Stopped at the third of four steps, each of which is kept."""
    settings = dataclasses.replace(TINY, checkpoint_every=1)
    memory = dataclasses.asdict(memories(CompareSettings(layers=TINY.layers[:1]))[0])
    arguments = {"recipe": settings.recipe(), "memory": memory, "mlp_width": 32, "seed": 0, "rate": 1e-2}
    cell = Cell(TRAIN, arguments, "cell", settings.steps)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir(), stopped.mkdir()

    def stop(label, steps, words, last=False):
        if "step 3" in words:
            raise KeyboardInterrupt

    with workers(1) as compute:
        [(tensors, facts)] = run([cell], whole, compute, lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            run([cell], stopped, compute, stop)
        assert cell.checkpoint(stopped).exists()
        [(resumed, others)] = run([cell], stopped, compute, lambda *_: None)
    assert facts == others and all(torch.equal(tensor, resumed[name]) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"further_head_sizes": (5,)}, "Heads of 5 do not fit into a width of 16"),
        ({"tuning_seed": 1}, "Seed 1 chooses the learning rates"),
        ({"pairs_judged": (4, 27)}, "only 26 keys"),
        ({"context": 20}, "more than the 21 of a window"),
    ],
)
def test_settings_that_cannot_be_run_are_refused(wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        dataclasses.replace(TINY, **wrong)
