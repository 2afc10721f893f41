"""Small models trained on synthetic tasks, and the scores that they reach on new sequences."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from ttr.experiments.cells import Cell, Report, Result
from ttr.experiments.errors import UserError
from ttr.experiments.reproduce.experiment import TUNING_SEED, Experiment, Figures, Run
from ttr.experiments.reproduce.picture import scores
from ttr.experiments.reproduce.small_model import SmallModel, TaskRecipe
from ttr.experiments.training import reporting, train
from ttr.layer.architecture import Architecture
from ttr.tasks.registry import task_of
from ttr.tasks.task import LabelledSequences, Task

JUDGED, TUNING = 2**62, 2**62 + 1
"""Seeds of the sequences that models are judged on, and that their learning rates are chosen on; those of the
training are smaller."""


@dataclass(frozen=True)
class Lesson:
    """What models are trained on and judged by.

    Attributes:
        title: of its panel.
        trained: tasks of which every step draws one for all its sequences.
        judged: by name, which is a number if they differ in one.
        layers: by name.
        recipe: settings of the recipe that are others here.
    """

    title: str
    trained: Sequence[Task]
    judged: Mapping[str, Task]
    layers: Mapping[str, Architecture]
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainedExperiment(Experiment):
    """Scores of trained models; figures are called "lesson, layer, judged task", without the last if there is
    one alone.

    Attributes:
        lessons: what is trained.
        recipes: by scale.
        rates: by scale, the learning rates of which each layer gets the best one in each lesson.
        along: what the names of the judged tasks count, if they are numbers.
    """

    lessons: Sequence[Lesson]
    recipes: Mapping[str, TaskRecipe]
    rates: Mapping[str, Sequence[float]]
    along: str = ""
    judged_at: Sequence[str] = ("laptop", "gpu")

    def measure(self, scale: str, run: Run) -> dict[str, Any]:
        """The scores of each seed by lesson, layer and judged task, and the chosen rates."""
        rates, (first, count) = self.rates[scale], self.seeds[scale]
        places = [(lesson, name) for lesson in self.lessons for name in lesson.layers]

        def trained(runs: Sequence[tuple[Lesson, str, int, float]]) -> list[dict[str, Any]]:
            return [facts for _, facts in run([self._cell(scale, *each) for each in runs])]

        chosen = [rates[0]] * len(places)
        if len(rates) > 1:
            tried = trained([(*place, TUNING_SEED, rate) for place in places for rate in rates])
            found = [facts["tuning_loss"] for facts in tried]
            rows = [found[i : i + len(rates)] for i in range(0, len(found), len(rates))]
            chosen = [min(zip(row, rates), key=_finite_first)[1] for row in rows]
        seeds = range(first, first + count)
        results = iter(trained([(*p, seed, rate) for p, rate in zip(places, chosen) for seed in seeds]))
        measured: dict[str, Any] = {}
        for (lesson, name), rate in zip(places, chosen, strict=True):
            facts = [next(results) for _ in seeds]
            measured.setdefault(lesson.title, {})[name] = {
                "rate": rate,
                "scores": {judged: [each["scores"][judged] for each in facts] for judged in lesson.judged},
                "diverged_at": [each["diverged_at"] for each in facts],
                "parameters": facts[0]["parameters"],
                "sha256": facts[0]["sha256"],
            }
        return measured

    def _cell(self, scale: str, lesson: Lesson, name: str, seed: int, rate: float) -> Cell:
        recipe = dataclasses.replace(self.recipes[scale], **lesson.recipe)
        arguments = {
            "recipe": dataclasses.asdict(recipe),
            "trained": [task.to_dict() for task in lesson.trained],
            "judged": {key: task.to_dict() for key, task in lesson.judged.items()},
            "layer": lesson.layers[name].to_dict(),
            "seed": seed,
            "rate": rate,
        }
        place = f"{self.lessons.index(lesson)}.{list(lesson.layers).index(name)}"
        label = f"{self.name}.{place}.seed{seed}.rate{rate:g}"
        gpus = 0.0 if recipe.device == "cpu" else 1.0
        return Cell(f"{__name__}:train_and_judge", arguments, label, recipe.steps, gpus=gpus)

    def figures(self, measured: Mapping[str, Any]) -> Figures:
        """The scores."""
        return {
            ", ".join([title, layer] + [judged] * (len(found["scores"]) > 1)): values
            for title, layers in measured.items()
            for layer, found in layers.items()
            for judged, values in found["scores"].items()
        }

    def draw(self, measured: Mapping[str, Any]) -> Figure:
        """A panel for each lesson."""
        by_layer = {
            title: {layer: found["scores"] for layer, found in layers.items()}
            for title, layers in measured.items()
        }
        return scores(by_layer, self.along, self.lessons[0].trained[0].says)


def _finite_first(tried: tuple[float, float]) -> tuple[bool, float]:
    """Sorts losses, those that are not numbers last."""
    return math.isnan(tried[0]), tried[0]


def train_and_judge(arguments: dict[str, Any], folder: Path, checkpoint: Path, report: Report) -> Result:
    """Train one model from one seed at one rate.

    Returns:
        "scores" on new sequences by judged task, "tuning_loss", the mean loss on others, the "loss" of every
        step, the number of "parameters", the step at which it diverged, if it did, and "sha256" of the judged
        sequences.

    Raises:
        UserError: if the recipe's GPU is not there.
    """
    recipe, seed, rate = TaskRecipe.of(arguments["recipe"]), arguments["seed"], arguments["rate"]
    trained = [task_of(each) for each in arguments["trained"]]
    judged = {name: task_of(each) for name, each in arguments["judged"].items()}
    model = built(recipe, Architecture.from_dict(arguments["layer"]), trained[0], seed)
    loss_of = losses(model, recipe, trained, seed)
    on_step = reporting(report, "tasks", recipe.steps, f"seed {seed}, rate {rate:g}", "loss")
    history = train(model, loss_of, recipe.steps, rate, recipe, checkpoint, dict(arguments), on_step)
    report("tasks", recipe.steps - len(history.loss), "measuring")
    scores, tuning_losses, digest = {}, [], hashlib.sha256()
    for name, task in judged.items():
        sequences = task.draw(recipe.judged, JUDGED)
        digest.update(sequences.sha256.encode())
        scores[name] = task.score(_answers(model, sequences, recipe), sequences)
        tuning = task.draw(recipe.judged, TUNING)
        tuning_losses.append(task.loss(_answers(model, tuning, recipe), tuning).item())
    facts = {
        "scores": scores,
        "tuning_loss": fmean(tuning_losses),
        "loss": history.loss,
        "diverged_at": history.diverged_at,
        "parameters": sum(p.numel() for p in model.parameters()),
        "sha256": digest.hexdigest(),
    }
    return {}, facts


def built(recipe: TaskRecipe, layer: Architecture, task: Task, seed: int) -> SmallModel:
    """A fresh model.

    Raises:
        UserError: if the recipe's GPU is not there.
    """
    if recipe.device != "cpu" and not torch.cuda.is_available():
        raise UserError("This machine has no GPU. Use --scale laptop.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallModel(recipe, layer, task).to(recipe.device)


def losses(
    model: SmallModel, recipe: TaskRecipe, trained: Sequence[Task], seed: int
) -> Callable[[int], Float[Tensor, ""]]:
    """The loss of each step: on new sequences of one of the tasks."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(trained), (recipe.steps,), generator=generator).tolist()
    seeds = torch.randint(2**62, (recipe.steps,), generator=generator).tolist()

    def loss_of(step: int) -> Float[Tensor, ""]:
        task = trained[chosen[step]]
        sequences = _on(recipe.device, task.draw(recipe.batch, seeds[step]))
        return task.loss(model.answers(sequences), sequences)

    return loss_of


def _on(device: str, sequences: LabelledSequences) -> LabelledSequences:
    return LabelledSequences(*(part.to(device) for part in sequences))


@torch.no_grad()
def _answers(model: SmallModel, sequences: LabelledSequences, recipe: TaskRecipe) -> Float[Tensor, "asked V"]:
    model.eval()
    parts = zip(*(part.split(recipe.batch) for part in sequences))
    return torch.cat([model.answers(_on(recipe.device, LabelledSequences(*part))) for part in parts]).cpu()
