"""``ttr reproduce``: streams, bands, and experiments that can fail."""

import dataclasses
import io
import json
import math
from html import escape
from pathlib import Path

import pytest
import torch
from latex2mathml.converter import convert
from rich.console import Console
from torch.nn.functional import normalize

from tests.test_reproduce_mathematics import FOUND as MATHEMATICS
from ttr.experiments.errors import UserError
from ttr.experiments.reproduce import run as running
from ttr.experiments.reproduce.capacity import accuracies
from ttr.experiments.reproduce.claims import CORRELATED_KEYS, EXPERIMENTS, SWITCH
from ttr.experiments.reproduce.experiment import SCALES, TUNING_SEED, Band, verdicts
from ttr.experiments.reproduce.learners import delta_rule, least_squares, linear_attention, softmax
from ttr.experiments.reproduce.run import ReproduceSettings, reproduce
from ttr.experiments.reproduce.streams import Learner, Option, errors
from ttr.laws.tolerances import FLOAT32, FLOAT64, HALF, error
from ttr.tasks.associative_recall import AssociativeRecall
from ttr.tasks.regression import STREAMS, arc, linear_map, smooth_map, switching

SETTINGS = {
    "linear-map": {"size": 4},
    "piecewise-linear": {"size": 4, "segment": 8},
    "switching": {"size": 4},
    "smooth-map": {"size": 4},
    "arc": {},
}


def run(tmp_path, name, **changes):
    console = Console(file=io.StringIO(), width=200)
    settings = ReproduceSettings((name,), "smoke", tmp_path, **changes)
    met = reproduce(settings, console)
    record = json.loads((tmp_path / name / "results.json").read_text())
    return met, record, console.file.getvalue()


def measured(experiment, scale="smoke"):
    """What an experiment measures, without files."""
    return experiment.measure(
        scale, lambda cells: [errors(c.arguments, Path(), Path(), print) for c in cells]
    )


# --------------------------------------------------------------------------------------------------- streams
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_a_function_of_its_seed(name):
    draw = {"streams": 3, "length": 20, **SETTINGS[name]}
    one, same, other = (STREAMS[name](seed=seed, **draw) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.keys, other.keys) and not torch.equal(one.keys[0], one.keys[1])
    assert one.keys.shape[:2] == one.values.shape[:2] == (3, 20) and one.truth.shape == one.values.shape
    assert error(one.keys.norm(dim=-1), torch.ones(3, 20)) < FLOAT32


def test_a_linear_map_is_one_in_each_segment():
    keys, values, truth = linear_map(2, 24, 3, seed=0, segment=12)
    assert torch.equal(values, truth)
    for part in (slice(0, 12), slice(12, 24)):
        fitted = torch.linalg.lstsq(keys[:, part], values[:, part])
        assert error(keys[:, part] @ fitted.solution, values[:, part]) < FLOAT32
    whole = torch.linalg.lstsq(keys, values).solution
    assert (keys @ whole - values).abs().max() > 0.1


def test_the_keys_of_a_correlated_stream_have_the_spread_that_is_asked_for():
    """Unit keys have another covariance than the normal ones they come from, so only its order is known."""
    for spread, least, most in ((0.0, 1.0, 1.5), (1.5, 12.0, 40.0)):
        keys = linear_map(1, 20_000, 8, seed=0, spread=spread).keys[0].double()
        values = torch.linalg.eigvalsh(keys.mT @ keys)
        assert least < values[-1] / values[0] < most


def test_norms_of_keys_say_nothing_of_the_values():
    plain, spread = (smooth_map(2, 50, 3, seed=4, norm_spread=s) for s in (0.0, 1.0))
    assert torch.equal(plain.values, spread.values)
    assert error(normalize(spread.keys, dim=-1), plain.keys) < FLOAT32
    assert 0.7 < spread.keys.norm(dim=-1).log().std() < 1.3


def test_a_switching_process_goes_on_where_it_was():
    keys, values, truth = switching(4, 400, 8, seed=0)
    assert torch.equal(keys[:, 1:], values[:, :-1])
    off = (values - truth).square().sum(-1).mean(0)
    assert off[:100].mean() > 5 * off[100:].mean() > 0
    near = (keys[:, 110:] - keys[:, 110:].mean(1, keepdim=True)).square().sum(-1).mean()
    assert near < 0.3 * keys[:, :100].square().sum(-1).mean()


def test_an_arc_has_ends():
    keys, _, truth = arc(2, 500, seed=0, half_angle=1.0)
    assert truth[..., 0].abs().max() <= 1.0 and keys[..., 0].min() > math.cos(1.0) - FLOAT32


# ------------------------------------------------------------------------------------ recall without training
def test_a_memory_that_sums_up_recalls_what_its_channels_hold():
    """With orthonormal tokens a sum over the pairs is exact, up to as many tokens as channels."""
    sequences = AssociativeRecall(32, 32, 6, fillers="blank").draw(20, seed=0)
    embedding = torch.eye(32, dtype=torch.float64)
    embedding[0] = 0.0
    x = embedding[sequences.inputs]
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
    read = linear_attention().answer(x, before, x)[sequences.asked]
    assert torch.equal(16 + read[:, 16:].argmax(-1), sequences.labels[sequences.asked])


@pytest.mark.parametrize("option, least, most", [(softmax(300.0), 1.0, 1.0), (delta_rule(1.0), 0.0, 0.9)])
def test_recall_without_training_needs_a_memory_that_keeps_the_pairs(option, least, most, tmp_path):
    """Sixteen pairs in eight channels: a narrow kernel tells all of them apart, the delta rule does not."""
    sizes = {"size": 8, "length": 64, "pairs": 16, "sequences": 4, "seeds": [0, 1]}
    arguments = sizes | {"option": option.to_dict()}
    _, facts = accuracies(arguments, tmp_path, tmp_path, lambda *_: None)
    assert len(facts["accuracy"]) == 2 and all(least <= each <= most for each in facts["accuracy"])


# -------------------------------------------------------------------------------------------------- learners
def test_a_read_out_knows_the_pairs_before_it_alone():
    stream = linear_map(2, 30, 4, seed=0)
    keys, values = stream.keys.double(), stream.values.double()
    read = least_squares(1e-9).read(keys, values)
    assert error(read[:, 5:], values[:, 6:]) < FLOAT32  # four pairs determine the map
    values[:, 20:] = 7.0
    assert torch.equal(least_squares(1e-9).read(keys, values)[:, :20], read[:, :20])


def test_linear_attention_is_scaled_as_a_mean():
    keys, values = (torch.randn(1, 6, 3, dtype=torch.float64) for _ in range(2))
    read = linear_attention().read(keys, values)[0, 3]
    expected = 3 / 4 * (values[0, :4] * (keys[0, :4] @ keys[0, 4])[:, None]).sum(0)
    assert error(read, expected) < FLOAT64


def test_an_option_survives_json():
    for option in (linear_attention(0.9), softmax(4.0, unit=True)):
        assert Option.from_dict(json.loads(json.dumps(option.to_dict()))) == option


def test_numbers_are_chosen_on_other_streams(monkeypatch):
    seeds = []
    draw = STREAMS["linear-map"]
    monkeypatch.setitem(STREAMS, "linear-map", lambda seed, **s: seeds.append(seed) or draw(seed=seed, **s))
    arguments = {
        "stream": "linear-map",
        "settings": {"streams": 2, "length": 64, "size": 4},
        "options": [softmax(1.0).to_dict(), least_squares(0.01).to_dict()],
        "seeds": [3, 4],
    }
    tensors, facts = errors(arguments, Path(), Path(), print)
    assert seeds == [TUNING_SEED, 3, 4] and facts["chosen"] == 1
    assert tensors["errors"].shape == (2, 63) and facts["floor"] == [0.0, 0.0]
    assert tensors["errors"][:, 32:].max() < HALF


# ---------------------------------------------------------------------------------------------- experiments
def test_a_band_asks_something_of_every_seed():
    figures = {"a": [1.0, 2.0], "b": [2.0, 2.0], "broken": [1.0, math.nan]}
    assert Band("a", low=1.0, high=2.0).met(figures)
    assert not Band("a", low=1.5).met(figures) and not Band("a", high=1.5).met(figures)
    ratio = Band("a", "b", low=0.5, high=1.0)
    assert ratio.values(figures) == [0.5, 1.0] and ratio.met(figures)
    assert not Band("broken", high=5.0).met(figures)
    assert ratio.words == "a / b: at least 0.5 and at most 1"


def blank(cell):
    """What a cell of any kind could have found."""
    facts = {"accuracy": [0.0], "tuning_loss": 0.0, "loss": [0.0], "diverged_at": None, "parameters": 1}
    judged = cell.arguments.get("judged", {"10": None})
    return {"errors": torch.zeros(1, 1023)}, facts | {"scores": dict.fromkeys(judged, 0.0), "sha256": ""}


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in MATHEMATICS])
def test_every_band_speaks_of_a_figure_and_asks_something(name):
    experiment = EXPERIMENTS[name]
    assert experiment.bands
    figures = experiment.figures(experiment.measure("laptop", lambda cells: list(map(blank, cells))))
    for band in experiment.bands:
        assert {band.figure, band.over or band.figure} <= set(figures)
        assert band.low > -math.inf or band.high < math.inf
    assert set(experiment.seeds) == set(SCALES) and "laptop" in experiment.judged_at
    (first, count), *judged = (experiment.seeds[scale] for scale in SCALES)
    assert all(start >= first + count for start, _ in judged), "bands may be chosen by the smoke run"
    assert all(start + many <= TUNING_SEED for start, many in [(first, count), *judged])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_formulas_can_be_shown_in_a_browser(name):
    """A command that the converter does not know would stay in the text."""
    assert "\\" not in convert(EXPERIMENTS[name].formula)


def test_an_experiment_writes_its_page_and_is_not_computed_again(tmp_path):
    met, record, shown = run(tmp_path, "correlated-keys")
    assert met and record["met"] and "The claim shows" in shown
    page = (tmp_path / "correlated-keys" / "README.md").read_text()
    assert CORRELATED_KEYS.claim in page and "ttr reproduce correlated-keys --scale smoke" in page
    for band in record["bands"]:
        assert band["band"] in page and band["met"]
    assert (tmp_path / "correlated-keys" / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert CORRELATED_KEYS.claim in (tmp_path / "README.md").read_text()
    report = (tmp_path / "report.html").read_text()
    assert escape(CORRELATED_KEYS.claim) in report and "1 of 1 claims show here" in report
    assert report.count("<img") == 1 and all(escape(band["band"]) in report for band in record["bands"])
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").glob("*.safetensors")}
    assert len(cells) == 10
    assert run(tmp_path, "correlated-keys")[1] == record
    assert cells == {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").glob("*.safetensors")}


def test_a_claim_that_does_not_show_fails(tmp_path, monkeypatch):
    """Were linear attention as good as least squares, the experiment would say so."""
    panels = [
        dataclasses.replace(
            panel,
            learners=[
                Learner(
                    learner.name,
                    [least_squares(0.01)] if learner.name == "linear attention" else learner.options,
                )
                for learner in panel.learners
            ],
        )
        for panel in CORRELATED_KEYS.panels
    ]
    changed = dataclasses.replace(CORRELATED_KEYS, panels=panels)
    failed = [
        v["band"] for v in verdicts(changed, changed.figures(measured(changed)), "smoke") if not v["met"]
    ]
    assert len(failed) == 2 and all("linear attention, last" in band for band in failed)
    monkeypatch.setitem(running.EXPERIMENTS, "correlated-keys", changed)
    met, record, shown = run(tmp_path, "correlated-keys")
    assert not met and not record["met"] and "does NOT show" in shown
    assert "does NOT show here" in (tmp_path / "correlated-keys" / "README.md").read_text()


def test_curves_are_the_means_of_their_stretches():
    """On both time scales: every token lies in one stretch."""
    for experiment in (CORRELATED_KEYS, SWITCH):
        found = experiment._summary({"errors": torch.arange(1000.0).expand(2, -1)}, {})
        assert len(found["pairs"]) == len(found["errors"])
        for pairs, each in zip(found["pairs"], found["errors"], strict=True):
            assert each == [pytest.approx(pairs - 1)] * 2


@pytest.mark.parametrize(
    "names, scale, sentence",
    [
        (("correlated",), "smoke", "no experiment 'correlated'.*correlated-keys"),
        ((), "smoke", "Name an experiment"),
        (("switch",), "huge", "--scale takes smoke, laptop, gpu"),
    ],
)
def test_what_cannot_be_run_is_refused(names, scale, sentence):
    with pytest.raises(UserError, match=sentence):
        ReproduceSettings(names, scale)


@pytest.mark.full
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_claim_shows_in_the_smoke_run(name, tmp_path):
    assert run(tmp_path, name)[0]
