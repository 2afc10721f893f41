"""What an experiment is: a claim, how it is measured, and the bands its figures must lie in."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from ttr.experiments.cells import Cell, Result

SCALES = ("smoke", "laptop", "gpu")
"""How large an experiment is: to see that it runs, to be judged on a laptop, and on a GPU."""

TUNING_SEED = 1000
"""The seed by which the numbers of a memory are chosen; none of the seeds that are judged."""

Run = Callable[[Sequence[Cell]], list[Result]]
"""Gives the results of cells, in their order."""

Figures = Mapping[str, Sequence[float]]
"""What was measured, by name: a number for each seed."""


@dataclass(frozen=True)
class Band:
    """What a claim says about a figure, or about the ratio of two: for every seed it lies between ``low`` and
    ``high``."""

    figure: str
    over: str | None = None
    low: float = -math.inf
    high: float = math.inf

    def values(self, figures: Figures) -> list[float]:
        """Of each seed."""
        if self.over is None:
            return list(figures[self.figure])
        return [a / b for a, b in zip(figures[self.figure], figures[self.over], strict=True)]

    def met(self, figures: Figures) -> bool:
        """Whether all seeds lie in the band; a figure that is not a number lies nowhere."""
        return all(self.low <= value <= self.high for value in self.values(figures))

    @property
    def words(self) -> str:
        """What is asked for, as "A / B at least 3"."""
        what = self.figure if self.over is None else f"{self.figure} / {self.over}"
        ends = [f"at least {self.low:g}"] * (self.low > -math.inf)
        return f"{what}: {' and '.join(ends + [f'at most {self.high:g}'] * (self.high < math.inf))}"


@dataclass(frozen=True, kw_only=True)
class Experiment(ABC):
    """A claim and what shows it.

    Attributes:
        name: on the command line.
        title: a few words.
        claim: a sentence that the experiment can refute.
        source: where the claim stands.
        formula: what is computed, in LaTeX.
        protocol: how it is measured, and what of it is a substitute for what was not published.
        reading: what else the figures show, also against the claim.
        bands: what the figures must be; the one that decides comes first.
        seeds: by scale, the first and how many.
        judged_at: the scales that are large enough to judge the claim.
    """

    name: str
    title: str
    claim: str
    source: str
    formula: str
    protocol: str
    reading: str
    bands: Sequence[Band]
    seeds: Mapping[str, tuple[int, int]]
    judged_at: Sequence[str] = SCALES

    @abstractmethod
    def measure(self, scale: str, run: Run) -> dict[str, Any]:
        """The content of results.json that the figures and the picture are made of; JSON-ready."""

    @abstractmethod
    def figures(self, measured: Mapping[str, Any]) -> Figures:
        """The figures that the bands speak of."""

    @abstractmethod
    def draw(self, measured: Mapping[str, Any]) -> Figure:
        """The picture of a paper."""


def verdicts(experiment: Experiment, figures: Figures, scale: str) -> list[dict[str, Any]]:
    """Every band with its values and whether it was met, JSON-ready; "met" is None at a scale that is too
    small to judge."""
    judged = scale in experiment.judged_at
    return [
        {
            "band": band.words,
            "values": band.values(figures),
            "met": band.met(figures) if judged else None,
        }
        for band in experiment.bands
    ]
