"""Associative recall without training: tokens are random unit vectors, a pair is a token and the one after
it, and what is read is compared with all values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

from ttr.experiments.cells import Cell, Report, Result
from ttr.experiments.reproduce.experiment import Experiment, Figures, Run
from ttr.experiments.reproduce.picture import by_number
from ttr.experiments.reproduce.streams import Option
from ttr.tasks.associative_recall import AssociativeRecall
from ttr.tasks.task import SHARE, UNLABELLED


@dataclass(frozen=True, kw_only=True)
class CapacityExperiment(Experiment):
    """The share of right answers by the number of pairs.

    Attributes:
        learners: memories with their numbers, by name.
        size: channels of keys and values.
        length: tokens of a sequence.
        pairs: numbers of pairs.
        sequences: by scale, how many a seed gives.
    """

    learners: Mapping[str, Option]
    size: int
    length: int
    pairs: Sequence[int]
    sequences: Mapping[str, int]

    def measure(self, scale: str, run: Run) -> dict[str, Any]:
        """By learner and number of pairs, the accuracy of each seed."""
        first, count = self.seeds[scale]
        cells = [
            Cell(
                "ttr.experiments.reproduce.capacity:accuracies",
                {
                    "option": option.to_dict(),
                    "size": self.size,
                    "length": self.length,
                    "pairs": pairs,
                    "sequences": self.sequences[scale],
                    "seeds": list(range(first, first + count)),
                },
                f"{self.name}.{i}.{pairs}",
                1,
            )
            for i, option in enumerate(self.learners.values())
            for pairs in self.pairs
        ]
        results = iter(run(cells))
        return {
            name: {str(pairs): next(results)[1]["accuracy"] for pairs in self.pairs} for name in self.learners
        }

    def figures(self, measured: Mapping[str, Any]) -> Figures:
        """The accuracies."""
        return {
            f"{name}, {pairs} pairs": values
            for name, found in measured.items()
            for pairs, values in found.items()
        }

    def draw(self, measured: Mapping[str, Any]) -> Figure:
        """Accuracy against the number of pairs."""
        return by_number({"": measured}, "pairs in the sequence", SHARE, self.size)


def accuracies(arguments: dict[str, Any], folder: Path, checkpoint: Path, report: Report) -> Result:
    """Answers of a memory that reads every token as the value of the one before it, and is asked with each.

    Returns:
        "accuracy" of each seed: how often the embedding of the right value is the nearest of all.
    """
    option, pairs = Option.from_dict(arguments["option"]), arguments["pairs"]
    task = AssociativeRecall(vocabulary=1024, length=arguments["length"], pairs=pairs, fillers="blank")
    found = []
    for seed in arguments["seeds"]:
        tokens, labels = task.draw(arguments["sequences"], seed)
        embedding = _embedding(task.vocabulary, arguments["size"], seed)
        x = embedding[tokens]
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        read = option.answer(x, before, x)
        asked = labels != UNLABELLED
        half = task.vocabulary // 2
        nearest = half + (read[asked] @ embedding[half:].mT).argmax(-1)
        found.append((nearest == labels[asked]).double().mean().item())
    report("recall", 1, f"{pairs} pairs, accuracy {sum(found) / len(found):.3f}")
    return {}, {"accuracy": found}


def _embedding(vocabulary: int, size: int, seed: int) -> Float[Tensor, "V K"]:
    """Unit vectors; zeros for the blank."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(vocabulary, size, generator=generator, dtype=torch.float64)
    return torch.cat([torch.zeros(1, size, dtype=torch.float64), normalize(vectors[1:], dim=-1)])
