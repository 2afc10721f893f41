"""Associative recall by trained layers: one layer between embedding and output, without an MLP."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor, nn

from ttr.experiments.cells import Cell, Report, Result
from ttr.experiments.reproduce.experiment import TUNING_SEED, Experiment, Figures, Run, by_pairs
from ttr.experiments.reproduce.picture import by_number, dots
from ttr.experiments.settings import Recipe
from ttr.experiments.training import reporting, train
from ttr.layer.architecture import Architecture
from ttr.nn import Mixer
from ttr.tasks.associative_recall import (
    UNLABELLED,
    LabelledSequences,
    RecallSettings,
    associative_recall,
)

JUDGED, TUNING = 2**62, 2**62 + 1
"""Seeds of the sequences that models are judged on, and that their learning rates are chosen on; those of the
training are smaller."""


@dataclass(frozen=True)
class RecallRecipe(Recipe):
    """How a model is built, trained and judged.

    Every step draws one of the numbers of ``pairs_trained`` for all its sequences, which are new in every
    step; ``judged`` sequences are drawn for every number of ``pairs_judged``.
    """

    depth: int = 1
    batch: int = 64
    warmup: float = 0.2
    final_rate: float = 0.0
    checkpoint_every: int = 100
    vocabulary: int = 256
    length: int = 64
    pairs_trained: tuple[int, ...] = (8,)
    pairs_judged: tuple[int, ...] = (8,)
    steps: int = 500
    judged: int = 256

    def draw(self, pairs: int, count: int, seed: int) -> LabelledSequences:
        """Sequences with so many pairs."""
        return associative_recall(RecallSettings(self.vocabulary, self.length, pairs), count, seed)


class RecallModel(nn.Module):
    """Embedding, layers with a residual each, output."""

    def __init__(self, recipe: RecallRecipe, layer: Architecture) -> None:
        super().__init__()
        width = recipe.width
        self.embedding = nn.Embedding(recipe.vocabulary, width)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(recipe.depth))
        self.mixers = nn.ModuleList(Mixer(width, layer, heads=1) for _ in range(recipe.depth))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, recipe.vocabulary, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B L W"]:
        """What the output layer reads."""
        x = self.embedding(tokens)
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            x = x + mixer(norm(x))
        return self.norm(x)

    def answers(self, sequences: LabelledSequences) -> Float[Tensor, "asked V"]:
        """The logits at the tokens that have a label, in their order."""
        return self.head(self(sequences.tokens)[sequences.labels != UNLABELLED])


@dataclass(frozen=True, kw_only=True)
class TrainedRecallExperiment(Experiment):
    """The share of right answers of trained layers.

    Attributes:
        layers: by name.
        recipes: by scale.
        rates: by scale, those of which each layer gets the best one.
    """

    layers: Mapping[str, Architecture]
    recipes: Mapping[str, RecallRecipe]
    rates: Mapping[str, Sequence[float]]

    def measure(self, scale: str, run: Run) -> dict[str, Any]:
        """By layer and number of pairs the accuracy of each seed, and the chosen rates."""
        recipe, rates, (first, count) = self.recipes[scale], self.rates[scale], self.seeds[scale]

        def trained(runs: Sequence[tuple[str, int, float]]) -> list[dict[str, Any]]:
            return [facts for _, facts in run([self._cell(recipe, *each) for each in runs])]

        chosen = dict.fromkeys(self.layers, rates[0])
        if len(rates) > 1:
            tried = [(name, TUNING_SEED, rate) for name in self.layers for rate in rates]
            found = [each["tuning_accuracy"] for each in trained(tried)]
            best = {name: max((a, r) for a, (n, _, r) in zip(found, tried) if n == name) for name in chosen}
            chosen = {name: rate for name, (_, rate) in best.items()}
        runs = [(name, seed, chosen[name]) for name in self.layers for seed in range(first, first + count)]
        accuracy: dict[str, dict[str, list[float]]] = {
            name: {str(pairs): [] for pairs in recipe.pairs_judged} for name in self.layers
        }
        for (name, _, _), facts in zip(runs, trained(runs), strict=True):
            for pairs, value in facts["accuracy"].items():
                accuracy[name][pairs].append(value)
        return {"accuracy": accuracy, "rates": chosen}

    def _cell(self, recipe: RecallRecipe, name: str, seed: int, rate: float) -> Cell:
        arguments = {
            "recipe": dataclasses.asdict(recipe),
            "layer": self.layers[name].to_dict(),
            "seed": seed,
            "rate": rate,
        }
        label = f"{self.name}.{list(self.layers).index(name)}.seed{seed}.rate{rate:g}"
        return Cell(
            "ttr.experiments.reproduce.trained_recall:train_and_answer", arguments, label, recipe.steps
        )

    def figures(self, measured: Mapping[str, Any]) -> Figures:
        """The accuracies."""
        return by_pairs(measured["accuracy"])

    def draw(self, measured: Mapping[str, Any]) -> Figure:
        """Accuracy against the number of pairs, or by layer if there is one number alone."""
        accuracy = measured["accuracy"]
        if all(len(found) == 1 for found in accuracy.values()):
            alone = {name: values for name, found in accuracy.items() for values in found.values()}
            return dots(alone, "share of right answers")
        return by_number(accuracy, "pairs in the sequence", "share of right answers")


def train_and_answer(arguments: dict[str, Any], folder: Path, checkpoint: Path, report: Report) -> Result:
    """Train one layer from one seed at one rate.

    Returns:
        "accuracy" on new sequences by number of pairs, "tuning_accuracy", the mean on others, the "loss" of
        every step in nats, the number of "parameters", and the step at which it diverged, if it did.
    """
    recipe = RecallRecipe.of(arguments["recipe"])
    seed, rate = arguments["seed"], arguments["rate"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RecallModel(recipe, Architecture.from_dict(arguments["layer"]))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(recipe.pairs_trained), (recipe.steps,), generator=generator).tolist()
    seeds = torch.randint(2**62, (recipe.steps,), generator=generator).tolist()

    def loss_of(step: int) -> Float[Tensor, ""]:
        sequences = recipe.draw(recipe.pairs_trained[chosen[step]], recipe.batch, seeds[step])
        labels = sequences.labels[sequences.labels != UNLABELLED]
        return nn.functional.cross_entropy(model.answers(sequences), labels)

    on_step = reporting(report, "recall", recipe.steps, f"seed {seed}, rate {rate:g}", "nats an answer")
    history = train(model, loss_of, recipe.steps, rate, recipe, checkpoint, dict(arguments), on_step)
    report("recall", recipe.steps - len(history.loss), "measuring")
    facts = {
        "accuracy": {str(pairs): _accuracy(model, recipe, pairs, JUDGED) for pairs in recipe.pairs_judged},
        "tuning_accuracy": fmean(_accuracy(model, recipe, pairs, TUNING) for pairs in recipe.pairs_judged),
        "loss": history.loss,
        "diverged_at": history.diverged_at,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    return {}, facts


@torch.no_grad()
def _accuracy(model: RecallModel, recipe: RecallRecipe, pairs: int, seed: int) -> float:
    model.eval()
    sequences = recipe.draw(pairs, recipe.judged, seed)
    labels = sequences.labels[sequences.labels != UNLABELLED]
    return (model.answers(sequences).argmax(-1) == labels).double().mean().item()
