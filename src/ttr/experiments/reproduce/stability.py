"""How attention scores grow in training at high learning rates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ttr.component import axis_params
from ttr.experiments.cells import Cell, Report, Result
from ttr.experiments.picture import COLOURS, unboxed
from ttr.experiments.reproduce.experiment import Experiment, Figures, Run
from ttr.experiments.reproduce.picture import legend
from ttr.experiments.reproduce.small_model import SmallModel, TaskRecipe
from ttr.experiments.reproduce.trained import built, losses
from ttr.experiments.training import History, reporting, train
from ttr.layer.architecture import Architecture
from ttr.layer.sequences import Sequences
from ttr.nn import Mixer
from ttr.tasks.registry import task_of
from ttr.tasks.task import Task
from ttr.values import checks

EVERY = 10
"""Steps between two measurements."""


@dataclass(frozen=True, kw_only=True)
class StabilityExperiment(Experiment):
    """The largest attention score of models in training, at every rate.

    Figures are "layer, rate R, largest score", over the whole training, and "layer, rate R, last loss", the
    mean over its last twentieth.

    Attributes:
        layers: by name, of softmax attention.
        task: what is trained.
        recipes: by scale.
        rates: learning rates.
    """

    layers: Mapping[str, Architecture]
    task: Task
    recipes: Mapping[str, TaskRecipe]
    rates: Sequence[float]
    judged_at: Sequence[str] = ("laptop", "gpu")

    def measure(self, scale: str, run: Run) -> dict[str, Any]:
        """By layer and rate the largest scores and the losses of all steps, of each seed."""
        recipe, (first, count) = self.recipes[scale], self.seeds[scale]
        cells = [
            Cell(
                f"{__name__}:train_and_watch",
                {
                    "recipe": dataclasses.asdict(recipe),
                    "task": self.task.to_dict(),
                    "layer": layer.to_dict(),
                    "seed": seed,
                    "rate": rate,
                },
                f"{self.name}.{i}.seed{seed}.rate{rate:g}",
                recipe.steps,
                gpus=0.0 if recipe.device == "cpu" else 1.0,
            )
            for i, layer in enumerate(self.layers.values())
            for rate in self.rates
            for seed in range(first, first + count)
        ]
        results = iter(run(cells))
        measured: dict[str, Any] = {}
        for name in self.layers:
            for rate in self.rates:
                facts = [next(results)[1] for _ in range(count)]
                curves = [sorted((int(step), s) for step, s in each["scores"].items()) for each in facts]
                measured.setdefault(name, {})[f"{rate:g}"] = {
                    "steps": [[step for step, _ in curve] for curve in curves],
                    "scores": [[score for _, score in curve] for curve in curves],
                    "last loss": [_last(each) for each in facts],
                    "diverged_at": [each["diverged_at"] for each in facts],
                }
        return measured

    def figures(self, measured: Mapping[str, Any]) -> Figures:
        """The largest scores of the whole training, and the losses at its end."""
        found = {}
        for name, rates in measured.items():
            for rate, each in rates.items():
                found[f"{name}, rate {rate}, largest score"] = [max(scores) for scores in each["scores"]]
                found[f"{name}, rate {rate}, last loss"] = each["last loss"]
        return found

    def draw(self, measured: Mapping[str, Any]) -> Figure:
        """A panel for each rate: the largest score over the steps, a line for each seed."""
        figure = Figure(figsize=(3.4 * len(self.rates), 4.2), layout="constrained", dpi=130)
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(self.rates), sharey=True, squeeze=False)[0]
        handles: dict[str, Any] = {}
        for axes, rate in zip(panels, self.rates, strict=True):
            for i, (name, rates) in enumerate(measured.items()):
                found = rates[f"{rate:g}"]
                for steps, scores in zip(found["steps"], found["scores"], strict=True):
                    (handles[name],) = axes.plot(steps, scores, color=COLOURS[i], linewidth=1.6)
            axes.set(title=f"rate {rate:g}", xlabel="step", yscale="log")
            axes.title.set_fontsize(11)
            unboxed(axes)
        panels[0].set_ylabel("largest attention score")
        legend(figure, handles)
        return figure


def _last(facts: Mapping[str, Any]) -> float:
    """The mean loss of the last twentieth of the steps; infinite if there was a step that was not finite."""
    if facts["diverged_at"] is not None:
        return math.inf
    last = facts["loss"][-max(1, len(facts["loss"]) // 20) :]
    return sum(last) / len(last)


def train_and_watch(arguments: dict[str, Any], folder: Path, checkpoint: Path, report: Report) -> Result:
    """Train one model.

    Returns:
        "scores", the largest by step, the "loss" of every step, and the step at which it diverged, if it did.
    """
    recipe, seed, rate = TaskRecipe.of(arguments["recipe"]), arguments["seed"], arguments["rate"]
    task = task_of(arguments["task"])
    model = built(recipe, Architecture.from_dict(arguments["layer"]), task, seed)
    watched = task.draw(recipe.batch, seed).inputs.to(recipe.device)
    say = reporting(report, "stability", recipe.steps, f"seed {seed}, rate {rate:g}", "nats an answer")

    def on_step(history: History) -> None:
        step = len(history.loss)
        if step % EVERY == 0 or step == recipe.steps:
            history.curve[step] = largest_score(model, watched)
        say(history)

    loss_of = losses(model, recipe, [task], seed)
    history = train(model, loss_of, recipe.steps, rate, recipe, checkpoint, dict(arguments), on_step)
    report("stability", recipe.steps - len(history.loss), "measured")
    scores = {str(step): value for step, value in history.curve.items()}
    return {}, {"scores": scores, "loss": history.loss, "diverged_at": history.diverged_at}


@torch.no_grad()
@checks(values=False)
def largest_score(model: SmallModel, inputs: Tensor) -> float:
    """The largest size of s q.k, the exponent of the kernel, over all layers, heads and pairs of tokens of
    which the query is not the earlier one."""
    found = 0.0

    def look(mixer: Mixer, given: tuple[Float[Tensor, "B T d"]]) -> None:
        nonlocal found
        (x,) = given
        state = mixer.initial_state(len(x))
        tails = {name: state[name] for name in mixer.tails()}
        streams, _ = mixer.project(x, Sequences(x.shape[1], state.position), tails)
        function, params = mixer.problem.function, axis_params(mixer.memory(), "function")
        q, k = function.query(streams["q"], params), function.key(streams["k"], params)
        scores = torch.einsum("bihk,bjhk->bhij", q, k).tril()
        found = max(found, scores.abs().max().item())

    hooks = [part.register_forward_pre_hook(look) for part in model.parts if isinstance(part, Mixer)]
    model(inputs)
    for hook in hooks:
        hook.remove()
    return found
