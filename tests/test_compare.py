"""The main job: the recall slice, intervals that mean what they say, and a comparison that survives being killed."""

import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from ttr.experiments import job, training
from ttr.experiments.compare import compare
from ttr.experiments.errors import UserError
from ttr.experiments.memories import build, equal_widths, memories, parameters
from ttr.experiments.results import UNIGRAM, Measured, conclusion, slice_gap, summarise
from ttr.experiments.settings import LAYERS, CompareSettings
from ttr.experiments.statistics import Bootstrap, interval
from ttr.experiments.storage import load_tensors, save_tensors
from ttr.laws.tolerances import FLOAT32, FLOAT64
from ttr.tasks.text import evaluation_starts, read_text, recall_slice, shuffled, split, standard_library, training_starts, windows

TINY = {"layers": ("linear-attention", "softmax-attention-qknorm"), "steps": 6, "width": 16, "context": 32, "batch": 2, "head_size": 8, "depth": 1,
        "evaluation_windows": 24, "decoded": 3, "checkpoint_every": 2, "resamples": 100}
SPEEDS = ("training_tokens_per_second", "decoding_tokens_per_second")


@pytest.fixture
def text(tmp_path):
    """Some kilobytes of words that come again and again, with numbers that do not."""
    generator = torch.Generator().manual_seed(0)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta"]
    drawn = torch.randint(0, 10_000, (4000,), generator=generator).tolist()
    path = tmp_path / "text.txt"
    path.write_text(" ".join(f"{words[n % 7]}{n % 11}" for n in drawn))
    return path


def tiny(text, tmp_path, **changes):
    return CompareSettings(**({"files": (text,), "out": tmp_path / "out"} | TINY | changes))


def run(settings):
    """The results, and what was printed."""
    console = Console(file=io.StringIO(), width=100)
    return compare(settings, console), console.file.getvalue()


def without_speeds(results):
    return results | {"memories": [{key: value for key, value in row.items() if key not in SPEEDS} for row in results["memories"]]}


# ---------------------------------------------------------------------------------------------------------------- text
def recall_by_hand(row, n):
    """The docstring of ``recall_slice``, literally."""
    found = []
    for i in range(len(row) - 1):
        gram = row[i - n + 1:i + 1] if i >= n - 1 else None
        earlier = any(row[j - n + 1:j + 1] == gram for j in range(n - 1, i))
        found.append(gram is not None and len(set(gram)) > 1 and earlier)
    return found


@pytest.mark.parametrize("ngram", [2, 3, 4, 7])
def test_the_recall_slice_is_what_its_docstring_says(ngram):
    rows = torch.randint(0, 3, (20, 60), generator=torch.Generator().manual_seed(ngram)) * 127
    rows[0] = 32  # one byte only: nothing to recall
    assert recall_slice(rows, ngram).tolist() == [recall_by_hand(row, ngram) for row in rows.tolist()]
    assert recall_slice(rows, ngram)[1:].any() and not recall_slice(rows, ngram)[0].any()


def test_the_recall_slice_of_a_sentence():
    """'the cat the cow': the bytes after the second 'the ' and 'he c' could be looked up; its answer is not consulted."""
    sentence = b"the cat the cow"
    mask = recall_slice(torch.tensor([list(sentence)]), 4)[0]
    assert [sentence[i + 1:i + 2] for i in range(len(sentence) - 1) if mask[i]] == [b"c", b"o"]


def test_splits_share_no_byte_and_windows_stay_inside_them():
    parts = split(50_000, 64)
    covered = [i for pieces in dataclasses.astuple(parts) for piece in pieces for i in piece]
    assert sorted(covered) == list(range(50_000))
    pieces = (range(10, 20), range(30, 36))
    assert set(training_starts(pieces, 5, 50, 20, 0).flatten().tolist()) == {10, 11, 12, 13, 14, 30}
    assert evaluation_starts(pieces, 4, 100).tolist() == [10, 14, 30] and evaluation_starts(pieces, 4, 2).tolist() == [10, 14]


def test_data_follow_from_the_seed_alone():
    pieces = split(50_000, 64).train
    assert torch.equal(training_starts(pieces, 64, 5, 3, 7), training_starts(pieces, 64, 5, 3, 7))
    assert not torch.equal(training_starts(pieces, 64, 5, 3, 7), training_starts(pieces, 64, 5, 3, 8))
    content = torch.arange(100, dtype=torch.uint8)
    assert windows(content, torch.tensor([3, 90]), 5).tolist() == [[3, 4, 5, 6, 7, 8], [90, 91, 92, 93, 94, 95]]


def test_the_default_text_is_pythons_own():
    files = standard_library()
    assert any(path.name == "argparse.py" for path in files) and files == tuple(sorted(files))


# ---------------------------------------------------------------------------------------------------------- statistics
def test_the_estimate_is_the_mean_over_bytes():
    bits, mask = torch.rand(2, 30, 9), torch.rand(30, 9) < 0.3
    estimate = interval(Bootstrap.draw(30, 2, 50).bits_per_byte(bits, mask)).value
    assert abs(estimate - bits.double()[:, mask].mean().item()) < FLOAT64


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    generator = torch.Generator().manual_seed(1)
    hits = 0
    for _ in range(200):
        draws = Bootstrap.draw(60, 1, 200).bits_per_byte(torch.randn(1, 60, 4, generator=generator), torch.ones(60, 4, dtype=torch.bool))
        found = interval(draws)
        hits += found.low <= 0 <= found.high
    assert 180 <= hits <= 198


def measured(name, bits):
    facts = {"run": {"learning_rate": 0.01}, "parameters": 10, "mlp_width": 3, "tuning_bits_per_byte": 2.0, "state_bytes": 64, "loss": [3.0, 2.0],
             "diverged_at": None, "training_tokens_per_second": 5.0, "decoding_tokens_per_second": 7.0}
    return Measured(name, bits, [facts] * len(bits))


def test_pairing_separates_what_marginal_intervals_do_not():
    """Windows differ far more than the memories do; the same windows for all make the small difference plain."""
    generator = torch.Generator().manual_seed(0)
    hard = 2 + torch.rand(1, 100, 1, generator=generator).expand(1, 100, 20)
    worse = hard + 0.05 + 0.01 * torch.randn(1, 100, 20, generator=generator)
    mask = torch.rand(100, 20, generator=generator) < 0.3
    results = summarise([measured("a", worse), measured("b", hard), measured("c", hard.clone())], hard[0] + 2, mask, 300)
    rows = {row["name"]: row for row in results["memories"]}
    assert rows["a"]["bits_per_byte"]["all"]["low"] < rows["b"]["bits_per_byte"]["all"]["high"]
    assert rows["a"]["behind_best"]["all"]["low"] > 0
    assert rows["a"]["recall_behind"]["c"]["low"] > 0 and rows["b"]["recall_behind"]["a"]["high"] < 0
    first = conclusion(results)[0]
    assert first.startswith("b predicts") and "c cannot be told apart" in first and "behind it a by 0.05" in first
    assert results["reference"]["name"] == UNIGRAM and rows["a"]["under_unigram"]["low"] > 0.5


def test_a_seed_that_disagrees_widens_the_interval():
    even, mask = torch.full((2, 50, 8), 2.0), torch.ones(50, 8, dtype=torch.bool)
    uneven = even + torch.tensor([-0.3, 0.4])[:, None, None]
    bootstrap = Bootstrap.draw(50, 2, 200)
    narrow, wide = (interval(bootstrap.bits_per_byte(bits, mask)) for bits in (even, uneven))
    assert narrow.high - narrow.low < FLOAT64 and wide.high - wide.low > 0.5


def test_the_gap_of_the_slice_vanishes_with_its_mask_shuffled():
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(200, 50, generator=generator) < 0.25
    best = 3 + torch.randn(1, 200, 50, generator=generator)
    behind = best + 0.4 + 0.8 * mask  # worse everywhere, and more so where there is something to recall
    bootstrap, chance = Bootstrap.draw(200, 1, 300), shuffled(mask, 0)
    true, false = (interval(slice_gap(bootstrap, behind, best, m)) for m in (mask, chance))
    assert abs(true.value - 0.8) < FLOAT32 and true.low > 0.7
    assert chance.sum() == mask.sum() and false.low < 0 < false.high < 0.1


# ------------------------------------------------------------------------------------------------------ the comparison
def test_models_are_equal_within_one_percent():
    settings = CompareSettings()
    found = memories(settings)
    widths = equal_widths(found, settings)
    sizes = [parameters(build(m, settings, widths[m.name], 0)) for m in found]
    assert [m.name for m in found] == list(LAYERS) and max(sizes) < 1.01 * min(sizes)


def test_a_comparison_and_its_rerun(text, tmp_path, monkeypatch):
    settings = tiny(text, tmp_path)
    results, printed = run(settings)
    kept = {path: path.read_bytes() for path in settings.out.rglob("*") if path.is_file()}
    assert {"results.json", "comparison.png", "report.html", "settings.json"} <= {path.name for path in kept}
    assert json.loads(kept[settings.out / "results.json"]) == results
    assert [row["name"] in printed for row in results["memories"]] == [True, True] and results["conclusion"][0][:20] in printed
    page = kept[settings.out / "report.html"].decode()
    assert all(name in page for name in (*settings.layers, UNIGRAM)) and "data:image/png;base64," in page
    assert not re.search(r"""(?:src|href)=["'](?!data:)|url\(|@import""", page)
    for name in ("train", "build", "bits_of_every_byte"):
        monkeypatch.setattr(job, name, lambda *a, name=name, **k: pytest.fail(f"the second call called {name}"))
    again, _ = run(settings)
    assert again == results and {path: path.read_bytes() for path in settings.out.rglob("*") if path.is_file()} == kept


def test_stopped_at_any_step_it_ends_at_the_same_numbers(text, tmp_path, monkeypatch):
    whole, _ = run(tiny(text, tmp_path, out=tmp_path / "whole"))
    settings = tiny(text, tmp_path)
    left = [3, 1, 9]  # steps until the next stop, one not after a checkpoint, one in the other memory's training

    def interrupted(model, tokens):
        left[0] -= 1
        if left[0] == 0:
            left.pop(0)
            raise KeyboardInterrupt
        return loss(model, tokens)

    loss = training.next_byte_loss
    monkeypatch.setattr(training, "next_byte_loss", interrupted)
    for _ in range(3):
        with pytest.raises(UserError, match="goes on from here"):
            run(settings)
    monkeypatch.setattr(training, "next_byte_loss", loss)
    resumed, _ = run(settings)
    assert without_speeds(resumed) == without_speeds(whole) | {"command": resumed["command"]}


def test_killed_it_goes_on(text, tmp_path):
    settings = tiny(text, tmp_path, steps=3000)
    program = (f"from pathlib import Path, PosixPath\nfrom rich.console import Console\nimport torch\ntorch.set_num_threads(1)\n"
               f"from ttr.experiments.compare import compare\nfrom ttr.experiments.settings import CompareSettings\ncompare({settings!r}, Console())")
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL)
    checkpoint = settings.out / "runs" / "linear-attention.seed0.rate0.008.checkpoint.safetensors"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < len(load_tensors(checkpoint)[0]["loss"]) < 3000


def test_three_rates_and_two_seeds(text, tmp_path):
    settings = tiny(text, tmp_path, layers=("linear-attention",), tune_lr=True, seeds=2, learning_rate=3e-3, tuning_factors=(1e-3, 1.0, 2.0))
    results, _ = run(settings)
    finished = {path.name.removesuffix(".result.safetensors"): path for path in (settings.out / "runs").glob("*.result.safetensors")}
    tried = {rate: f"linear-attention.seed0.rate{rate}" for rate in settings.rates}
    rate = results["memories"][0]["learning_rate"]
    assert set(finished) == {*tried.values(), f"linear-attention.seed1.rate{rate}"}
    tuned = {r: load_tensors(finished[name])[1]["tuning_bits_per_byte"] for r, name in tried.items()}
    assert rate == min(tuned, key=tuned.get) != settings.rates[0]


def test_a_memory_from_a_file(text, tmp_path):
    path = tmp_path / "my_memory.py"
    path.write_text("import ttr\nfrom ttr.weights.geometric import Geometric\nfrom ttr.functions.linear import Linear\n"
                    "from ttr.solvers.implicit_delta_rule import ImplicitDeltaRule\n"
                    "memory = ttr.Problem(weights=Geometric(per='head'), function=Linear(), solver=ImplicitDeltaRule())\n")
    results, _ = run(tiny(text, tmp_path, layers=("linear-attention",), memory=path))
    assert {row["name"] for row in results["memories"]} == {"linear-attention", "my_memory"}
    path.write_text(path.read_text() + "# changed\n")
    with pytest.raises(UserError, match="definition of my_memory"):
        run(tiny(text, tmp_path, layers=("linear-attention",), memory=path))


def test_a_training_that_diverges_is_told_and_stops_nobody(text, tmp_path, monkeypatch):
    whole = training.next_byte_loss
    calls = []

    def diverging(model, tokens):
        calls.append(1)
        return whole(model, tokens) * (float("nan") if len(calls) == 4 else 1.0)

    monkeypatch.setattr(training, "next_byte_loss", diverging)
    results, printed = run(tiny(text, tmp_path))
    rows = {row["name"]: row for row in results["memories"]}
    assert rows["linear-attention"]["diverged_at"] == [4] and rows["softmax-attention-qknorm"]["diverged_at"] == [None]
    assert "diverged at step 4" in " ".join(printed.split())


# ----------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize("content, sentence", [(b"", "is empty"), (b"a\x00b" * 9000, "NUL"), (b"too short", "more text")])
def test_bad_text_is_refused_in_a_sentence(content, sentence, tmp_path):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        run(tiny(path, tmp_path))
    assert not (tmp_path / "out").exists()


def test_missing_files_and_folders_are_named(tmp_path):
    for path, sentence in ((tmp_path / "nowhere.txt", "no file"), (tmp_path, "is a folder")):
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


@pytest.mark.parametrize("changes", [{"steps": 0}, {"width": 20}, {"context": 3}, {"layers": ()}, {"seeds": 0}, {"seed": -1}])
def test_settings_that_cannot_be_are_refused(changes):
    with pytest.raises(UserError):
        CompareSettings(**changes)


@pytest.mark.parametrize("content, sentence", [("x = 1", "defines no memory"), ("memory = 3", "neither a Problem"), ("1 / 0", "ZeroDivisionError"),
                                               (None, "no Python file")])
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


def test_a_folder_with_somebody_elses_results_is_left_alone(text, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("mine")
    with pytest.raises(UserError, match="results.json"):
        run(tiny(text, tmp_path))
    assert (tmp_path / "out" / "results.json").read_text() == "mine"


def test_other_arguments_leave_a_folder_alone(text, tmp_path):
    run(tiny(text, tmp_path, steps=2))
    kept = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="steps"):
        run(tiny(text, tmp_path, steps=4))
    with text.open("a") as file:
        file.write("more")
    with pytest.raises(UserError, match="sha256"):
        run(tiny(text, tmp_path, steps=2))
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == kept


def test_a_damaged_resume_file_is_named_and_nothing_is_touched(text, tmp_path):
    settings = tiny(text, tmp_path, steps=2)
    run(settings)
    (settings.out / "runs" / "linear-attention.seed0.rate0.008.result.safetensors").unlink()  # so that the checkpoint is needed
    for name in ("settings.json", "runs/linear-attention.seed0.rate0.008.checkpoint.safetensors",
                 "runs/softmax-attention-qknorm.seed0.rate0.008.result.safetensors"):
        path = settings.out / name
        whole = path.read_bytes()
        flipped = whole[:-40] + bytes([whole[-40] ^ 0xFF]) + whole[-39:]
        for damaged in (whole[:len(whole) // 2], b"", flipped):
            path.write_bytes(damaged)
            kept = {p: p.read_bytes() for p in settings.out.rglob("*") if p.is_file()}
            with pytest.raises(UserError) as caught:
                run(settings)
            assert str(path) in str(caught.value)
            assert {p: p.read_bytes() for p in settings.out.rglob("*") if p.is_file()} == kept
        path.write_bytes(whole)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file.safetensors"
    save_tensors(path, {"x": torch.ones(3)}, {"n": 1})

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space"):
        save_tensors(path, {"x": torch.zeros(3)}, {"n": 2})
    tensors, facts = load_tensors(path)
    assert tensors["x"].tolist() == [1.0, 1.0, 1.0] and facts == {"n": 1}


def test_the_command_asks_for_the_same_settings():
    assert CompareSettings(files=(Path("a b.txt"),), steps=7, tune_lr=True, layers=("retnet", "gla")).command() == \
        "ttr compare 'a b.txt' --layers retnet,gla --steps 7 --tune-lr"
