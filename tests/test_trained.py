"""Small models of ``ttr reproduce`` that are trained: on any task, judged on other sequences, at their best
rate."""

import dataclasses
import io
import json
import math

import pytest
import torch
from rich.console import Console

import ttr
from ttr.experiments.errors import UserError
from ttr.experiments.reproduce import run as running
from ttr.experiments.reproduce.claims import EXPERIMENTS
from ttr.experiments.reproduce.claims.attention import STABILITY
from ttr.experiments.reproduce.claims.layers import NAMES, plain_layer, plain_layers
from ttr.experiments.reproduce.claims.recall import CONVOLVED, KEY_VALUE_PAIRS, RECALL_BY_WIDTH
from ttr.experiments.reproduce.experiment import TUNING_SEED, Band
from ttr.experiments.reproduce.picture import scores
from ttr.experiments.reproduce.run import ReproduceSettings, reproduce
from ttr.experiments.reproduce.small_model import SmallModel, TaskRecipe
from ttr.experiments.reproduce.stability import largest_score, train_and_watch
from ttr.experiments.reproduce.trained import Lesson, TrainedExperiment, losses, train_and_judge
from ttr.laws.tolerances import FLOAT32, error
from ttr.layer.qkv.rotary import Rotary
from ttr.layer.qkv.short_convolution import ShortConvolution
from ttr.tasks.associative_recall import AssociativeRecall, StackedRecall
from ttr.tasks.in_context_regression import InContextRegression
from ttr.tasks.mad import Compression
from ttr.tasks.task import ERROR, SHARE

TINY = TaskRecipe(width=16, batch=8, steps=4, judged=6)
PAIRS = AssociativeRecall(vocabulary=16, length=8, pairs=2)


def experiment(recipe=TINY, task=PAIRS, **others):
    lesson = Lesson(
        "pairs", [AssociativeRecall(16, 8, 1), task], {"2": task}, plain_layers(["deltanet"], ("k",))
    )
    settings = {"lessons": [lesson], "recipes": {"smoke": recipe}, "rates": {"smoke": (1e-2,)}}
    return dataclasses.replace(KEY_VALUE_PAIRS, **settings | others)


def trained(tmp_path, rate=1e-2, seed=0, task=PAIRS, **recipe):
    found = experiment(dataclasses.replace(TINY, **recipe), task)
    tmp_path.mkdir(exist_ok=True)
    cell = found._cell("smoke", found.lessons[0], "DeltaNet", seed, rate)
    return train_and_judge(cell.arguments, tmp_path, tmp_path / "checkpoint.safetensors", lambda *_: None)[1]


def test_a_trained_layer_is_the_same_when_repeated_and_learns(tmp_path):
    first, second = (trained(tmp_path / name) for name in "ab")
    assert first == second and first["diverged_at"] is None and len(first["loss"]) == 4
    assert first != trained(tmp_path / "c", seed=1)
    longer = trained(tmp_path / "d", steps=150)
    assert longer["scores"]["2"] > 0.9 > first["scores"]["2"]
    assert longer["tuning_loss"] < 0.5 < first["tuning_loss"]


def test_a_killed_run_goes_on_with_the_arguments_of_its_cell(tmp_path):
    """They hold tuples, and the checkpoint lists."""
    found = experiment(dataclasses.replace(TINY, steps=12, checkpoint_every=5))
    arguments = found._cell("smoke", found.lessons[0], "DeltaNet", 0, 1e-2).arguments
    whole = train_and_judge(arguments, tmp_path, tmp_path / "whole.safetensors", lambda *_: None)[1]

    def killed(label, steps, words):
        if "step 7" in words:
            raise KeyboardInterrupt

    path = tmp_path / "killed.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train_and_judge(arguments, tmp_path, path, killed)
    assert path.exists()
    assert train_and_judge(arguments, tmp_path, path, lambda *_: None)[1] == whole


def test_judged_tuning_and_trained_sequences_are_all_different(tmp_path, monkeypatch):
    seeds, draw = [], AssociativeRecall.draw
    monkeypatch.setattr(
        AssociativeRecall, "draw", lambda self, count, seed: seeds.append(seed) or draw(self, count, seed)
    )
    trained(tmp_path)
    assert len(seeds) == len(set(seeds)) == 6


def test_a_lesson_changes_the_recipe():
    for lesson in RECALL_BY_WIDTH.lessons:
        recipe = RECALL_BY_WIDTH._cell("laptop", lesson, "DeltaNet", 1, 1e-2).arguments["recipe"]
        assert f"width {recipe['width']}" == lesson.title and recipe["steps"] == 600


def test_every_task_of_a_lesson_is_trained(tmp_path, monkeypatch):
    pairs, draw = set(), AssociativeRecall.draw
    monkeypatch.setattr(
        AssociativeRecall, "draw", lambda self, count, seed: pairs.add(self.pairs) or draw(self, count, seed)
    )
    found = experiment(dataclasses.replace(TINY, steps=12))
    loss_of = losses(model(PAIRS), found.recipes["smoke"], found.lessons[0].trained, 0)
    assert all(loss_of(step).isfinite() for step in range(12)) and pairs == {1, 2}


def test_a_model_that_diverges_is_judged_by_its_last_finite_step(tmp_path):
    found = trained(tmp_path, rate=1e18, steps=30)
    assert found["diverged_at"] and math.isfinite(found["tuning_loss"]) and found["scores"]["2"] < 0.9


def test_a_gpu_that_is_not_there_is_missed_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no GPU. Use --scale laptop"):
        trained(tmp_path, device="cuda")


def test_each_layer_is_judged_at_the_rate_with_the_least_loss_on_tuning_sequences():
    """Every second layer is better at the higher rate; the last one is not a number at the lower one."""
    seen = []

    def run(cells):
        seen.append([(cell.arguments["seed"], cell.arguments["rate"]) for cell in cells])
        facts = []
        for cell in cells:
            lesson, layer = map(int, cell.label.split(".")[1:3])
            sign = -1 if layer % 2 else 1
            loss = sign * cell.arguments["rate"]
            if (lesson, layer) == (2, 2):
                loss = math.nan if cell.arguments["rate"] == min(rates) else 1.0
            facts.append({"tuning_loss": loss, "scores": {"8": 0.5}, "diverged_at": None})
        return [({}, each | {"parameters": 1, "sha256": ""}) for each in facts]

    rates = KEY_VALUE_PAIRS.rates["laptop"]
    measured = KEY_VALUE_PAIRS.measure("laptop", run)
    chosen = [found["rate"] for layers in measured.values() for found in layers.values()]
    assert chosen == [min(rates), max(rates), min(rates)] * 2 + [min(rates), max(rates), max(rates)]
    assert set(seen[0]) == {(TUNING_SEED, rate) for rate in rates}
    assert {seed for seed, _ in seen[1]} == {1, 2, 3}


def test_layers_differ_in_what_is_convolved_alone():
    """Keys of the layer without a convolution are those of their own token; queries, keys, values else."""
    for lesson in KEY_VALUE_PAIRS.lessons:
        for layer in lesson.layers.values():
            convolved = [part.streams for part in layer.qkv if isinstance(part, ShortConvolution)]
            assert convolved == [CONVOLVED[lesson.title]] * bool(CONVOLVED[lesson.title])
            assert not layer.output and not any(isinstance(part, Rotary) for part in layer.qkv)
    turned = plain_layer("softmax-attention", positions=True)
    assert any(isinstance(part, Rotary) for part in turned.qkv)
    assert set(NAMES) <= set(ttr.catalogue)


# ---------------------------------------------------------------------------------------------------- models
def model(task, **recipe):
    torch.manual_seed(0)
    return SmallModel(dataclasses.replace(TINY, **recipe), plain_layer("softmax-attention"), task)


def test_a_model_answers_where_it_is_asked():
    task = StackedRecall(vocabulary=10, size=4, pairs=3)
    sequences = task.draw(5, 0)
    said = model(task, depth=2, mlp_ratio=2.0).answers(sequences)
    assert said.shape == (15, 10) and said.isfinite().all()
    task = InContextRegression(size=2, pairs=6)
    assert model(task).answers(task.draw(3, 0)).shape == (15, 2)


def test_what_is_decoded_depends_on_all_tokens_and_only_through_the_last_one():
    task = Compression(vocabulary=6, length=5)
    network, sequences = model(task), task.draw(1, 0)
    seen = []
    network.norm.register_forward_hook(lambda module, given, x: seen.append(x))
    said = network.answers(sequences)
    assert said.shape == (4, 6)
    changed = sequences._replace(inputs=(sequences.inputs + torch.tensor([1, 0, 0, 0, 0])) % 5)
    assert (network.answers(changed) - said).abs().amax(-1).min() > 0, "the first token counts everywhere"
    others = torch.cat([torch.randn(1, 4, 16), seen[0][:, -1:]], dim=1)
    network.norm = torch.nn.Identity()
    network.parts, network.norms = torch.nn.ModuleList(), torch.nn.ModuleList()
    network.embedding = torch.nn.Identity()
    assert error(network.head(network(others)[0, :4]), said) < FLOAT32


def test_depth_and_mlps_are_parts_of_a_model():
    one, two = (sum(p.numel() for p in model(PAIRS, depth=depth).parameters()) for depth in (1, 2))
    with_mlp = sum(p.numel() for p in model(PAIRS, mlp_ratio=2.0).parameters())
    assert two - one == 4 * 16 * 16 + 16 and with_mlp - one == 3 * 16 * 32 + 16
    assert [part.sizes.heads for part in model(PAIRS, depth=2, heads=4).parts] == [4, 4]


# ------------------------------------------------------------------------------------------------- stability
@pytest.mark.parametrize("memory", ["softmax-attention", "softmax-attention-qknorm"])
def test_the_largest_score_is_that_of_the_kernel(memory):
    torch.manual_seed(0)
    network, later = SmallModel(TINY, plain_layer(memory), PAIRS), False
    (mixer,) = network.parts
    for seed in range(40):
        inputs = PAIRS.draw(1, seed).inputs
        x = network.norms[0](network.embedding(inputs))
        q, k = mixer.q_proj(x), mixer.k_proj(x)
        if memory == "softmax-attention":
            every = (q @ k.mT / 16**0.5).abs()
        else:
            every = 10.0 * torch.cosine_similarity(q[:, :, None], k[:, None], dim=-1).abs()
        expected = every.tril().max()
        assert error(torch.tensor(largest_score(network, inputs)), expected) < FLOAT32
        later |= bool(every.max() > expected)
    assert later, "no key that comes after its query would have had the largest score"


def test_scores_are_watched_all_along_and_after_a_kill(tmp_path):
    arguments = {
        "recipe": dataclasses.asdict(dataclasses.replace(TINY, steps=25, checkpoint_every=5)),
        "task": PAIRS.to_dict(),
        "layer": plain_layer("softmax-attention", ("k",)).to_dict(),
        "seed": 0,
        "rate": 1e-2,
    }
    arguments = json.loads(json.dumps(arguments))
    whole = train_and_watch(arguments, tmp_path, tmp_path / "whole.safetensors", lambda *_: None)[1]
    assert set(whole["scores"]) == {"0", "10", "20", "25"} and len(whole["loss"]) == 25

    def killed(label, steps, words):
        if "step 17" in words:
            raise KeyboardInterrupt

    path = tmp_path / "killed.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train_and_watch(arguments, tmp_path, path, killed)
    assert train_and_watch(arguments, tmp_path, path, lambda *_: None)[1] == whole


def test_a_training_that_breaks_off_has_an_infinite_loss():
    def run(cells):
        facts = {"scores": {"0": 1.0, "100": 7.0, "20": 2.0}, "loss": [4.0, *[1.0] * 39]}
        broken = [cell.arguments["rate"] == 0.1 for cell in cells]
        return [({}, facts | {"diverged_at": 12 if each else None}) for each in broken]

    measured = STABILITY.measure("smoke", run)
    assert measured["softmax attention"]["0.1"]["steps"] == [[0, 20, 100]]  # files keep no order
    assert measured["softmax attention"]["0.1"]["scores"] == [[1.0, 2.0, 7.0]]
    figures = STABILITY.figures(measured)
    assert figures["with query-key norm, rate 0.1, last loss"] == [math.inf]
    assert figures["with query-key norm, rate 0.01, last loss"] == [1.0]
    assert figures["softmax attention, rate 0.01, largest score"] == [7.0]


# ------------------------------------------------------------------------------------------------ whole runs
def reproduced(tmp_path, monkeypatch, found):
    monkeypatch.setattr(running, "EXPERIMENTS", {found.name: found})
    console = Console(file=io.StringIO(), width=200)
    monkeypatch.setattr("ttr.experiments.reproduce.run.EXPERIMENTS", {found.name: found})
    met = reproduce(ReproduceSettings((found.name,), "smoke", tmp_path), console)
    record = json.loads((tmp_path / found.name / "results.json").read_text())
    return met, record, console.file.getvalue()


def test_a_scale_that_is_too_small_is_not_judged(tmp_path, monkeypatch):
    bands = [Band("pairs, DeltaNet", low=2.0)]
    met, record, shown = reproduced(tmp_path, monkeypatch, experiment(bands=bands, judged_at=("laptop",)))
    assert met and record["met"] is None and "too small to judge" in shown
    page = (tmp_path / record["name"] / "README.md").read_text()
    assert "too small to judge" in page and "not judged" in page and "The claim shows" not in page
    assert "0 of 0 claims" in (tmp_path / "report.html").read_text()


def test_a_trained_experiment_can_fail_and_its_page_says_what_was_measured(tmp_path, monkeypatch):
    bands = [Band("pairs, DeltaNet", low=low) for low in (3.0, -1.0, 2.0)]
    found = experiment(bands=bands, judged_at=("smoke",))
    met, record, shown = reproduced(tmp_path, monkeypatch, found)
    assert (
        not met
        and record["met"] is False
        and [band["met"] for band in record["bands"]]
        == [
            False,
            True,
            False,
        ]
    )
    value = f"{record['bands'][0]['values'][0]:.3g}"
    table, report = ((tmp_path / name).read_text() for name in ("README.md", "report.html"))
    for page in (table, report):
        shown = [f"pairs, DeltaNet: at least {low}: {value}" in page for low in (3, -1, 2)]
        assert shown == [True, False, True] and "1 of 3" in page, "what decides, and what is missed"
    assert "<math" in report and "0 of 1 claims show here" in report
    assert record["measured"]["pairs"]["DeltaNet"]["rate"] == found.rates["smoke"][0]


# -------------------------------------------------------------------------------------------------- pictures
def test_scores_are_drawn_over_numbers_or_in_rows():
    numbers = {"a": {"x": {"4": [0.5, 0.7], "16": [0.1, 0.3]}, "y": {"4": [1.0, 1.0], "16": [0.9, 0.8]}}}
    figure = scores(numbers, "pairs", SHARE)
    (axes,) = figure.axes
    line = next(line for line in axes.lines if line.get_label() == "x" or line.get_ydata()[0] == 0.6)
    assert line.get_xdata().tolist() == [4.0, 16.0] and line.get_ydata().tolist() == pytest.approx([0.6, 0.2])
    band = axes.collections[0].get_paths()[0].vertices
    assert {(4.0, 0.5), (4.0, 0.7), (16.0, 0.1), (16.0, 0.3)} <= {tuple(point) for point in band.tolist()}
    assert axes.get_ylim() == (-0.03, 1.04) and [t.get_text() for t in figure.legends[0].texts] == ["x", "y"]
    alone = {title: {"x": {"": [0.5, 0.7]}, "y": {"": [1e-3, 1e-3]}} for title in "abcd"}
    figure = scores(alone, "", ERROR)
    visible = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in visible] == list("abcd")
    assert all(axes.get_xscale() == "log" for axes in visible)
    assert [t.get_text() for t in visible[0].get_yticklabels()] == ["x", "y"]
    assert scores(numbers, "pairs", ERROR).axes[0].get_yscale() == "log"


def test_a_legend_stays_within_its_picture():
    long = {f"{i} {'a name that is long ' * 2}": {"1": [0.1], "2": [0.2]} for i in range(5)}
    for layers in (long, {name[:9]: found for name, found in long.items()}):
        figure = scores({"a": layers, "b": layers}, "pairs", SHARE)
        figure.canvas.draw()
        box = figure.legends[0].get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


def test_an_experiment_names_what_its_scores_are():
    assert isinstance(KEY_VALUE_PAIRS, TrainedExperiment)
    task = InContextRegression(size=2, pairs=4)
    lesson = Lesson("one map", [task], {"4": task, "8": task}, plain_layers(["deltanet"]))
    found = experiment(lessons=[lesson])
    measured = {"one map": {"DeltaNet": {"scores": {"4": [0.5], "8": [0.1]}}}}
    assert found.figures(measured) == {"one map, DeltaNet, 4": [0.5], "one map, DeltaNet, 8": [0.1]}
    assert found.draw(measured).axes[0].get_ylabel() == ERROR


TRAINED = [found for found in EXPERIMENTS.values() if isinstance(found, TrainedExperiment)]


@pytest.mark.parametrize("found", TRAINED, ids=lambda found: found.name)
def test_every_layer_of_every_lesson_can_be_trained_and_judged(found, tmp_path):
    """One step of two sequences: what a long run would trip over on its way."""
    recipe = dataclasses.replace(found.recipes["smoke"], steps=1, batch=2, judged=2)
    small = dataclasses.replace(found, recipes={"smoke": recipe})
    for lesson in small.lessons:
        first = next(iter(lesson.judged))
        lesson = dataclasses.replace(lesson, judged={first: lesson.judged[first]})
        for name in lesson.layers:
            arguments = (
                dataclasses.replace(small, lessons=[lesson])._cell("smoke", lesson, name, 0, 1e-3).arguments
            )
            path = tmp_path / f"{lesson.title} {name}.safetensors"
            facts = train_and_judge(json.loads(json.dumps(arguments)), tmp_path, path, lambda *_: None)[1]
            assert len(facts["loss"]) == 1 and math.isfinite(facts["scores"][first])
            assert all(task.ceiling(4, 0) == 1.0 for task in lesson.judged.values() if task.says == SHARE)
