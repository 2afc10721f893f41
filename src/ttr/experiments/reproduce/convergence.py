"""How fast the error of a memory falls with the number of pairs it has read."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ttr.experiments.cells import Cell, Report, Result
from ttr.experiments.picture import COLOURS, unboxed
from ttr.experiments.reproduce.experiment import TUNING_SEED, Experiment, Figures, Run
from ttr.experiments.reproduce.picture import legend, line_of_seeds
from ttr.experiments.reproduce.streams import Learner, Option, Panel
from ttr.tasks.regression import STREAMS, Stream

MARKS = ("o", "s", "D", "^")


@dataclass(frozen=True, kw_only=True)
class ConvergenceExperiment(Experiment):
    """Errors by the number of pairs, each with the option that is best there on other streams.

    Attributes:
        panels: the kinds of streams; the settings say how many channels the keys have.
        contexts: numbers n of pairs; an error is the mean over the tokens that have read n/2 to n pairs.
        fitted_from: slopes are those of the contexts from this one on.
        rates: the slope that theory gives a learner of that name, as a function of the dimension of the
            region that the keys fill.
        streams: by scale, how many a seed gives.
    """

    panels: Sequence[Panel]
    contexts: Sequence[int]
    fitted_from: int
    rates: Mapping[str, tuple[int, int]]
    streams: Mapping[str, int]

    def measure(self, scale: str, run: Run) -> dict[str, Any]:
        """By panel and learner, the errors of all seeds by context, and the options that were chosen."""
        pairs = [(panel, learner) for panel in self.panels for learner in panel.learners]
        results = run([self._cell(scale, *pair, f"{self.name}.{i}") for i, pair in enumerate(pairs)])
        measured: dict[str, Any] = {}
        for (panel, learner), (tensors, facts) in zip(pairs, results, strict=True):
            errors = dict(zip(map(str, self.contexts), tensors["errors"].T.tolist(), strict=True))
            measured.setdefault(panel.title, {})[learner.name] = facts | {"errors": errors}
        return measured

    def _cell(self, scale: str, panel: Panel, learner: Learner, label: str) -> Cell:
        first, count = self.seeds[scale]
        arguments = {
            "stream": panel.stream,
            "settings": dict(panel.settings) | {"streams": self.streams[scale]},
            "options": [option.to_dict() for option in learner.options],
            "contexts": list(self.contexts),
            "seeds": list(range(first, first + count)),
        }
        return Cell("ttr.experiments.reproduce.convergence:errors_by_context", arguments, label, 1)

    def figures(self, measured: Mapping[str, Any]) -> Figures:
        """Errors "panel, learner, n pairs", and "panel, learner, slope" of their logarithms."""
        figures: dict[str, Sequence[float]] = {}
        for panel, learners in measured.items():
            for learner, found in learners.items():
                errors = {int(n): values for n, values in found["errors"].items()}
                figures |= {f"{panel}, {learner}, {n} pairs": values for n, values in errors.items()}
                late = {n: values for n, values in errors.items() if n >= self.fitted_from}
                seeds = zip(*late.values(), strict=True)
                figures[f"{panel}, {learner}, slope"] = [slope(list(late), list(seed)) for seed in seeds]
        return figures

    def draw(self, measured: Mapping[str, Any]) -> Figure:
        """A panel for each kind of stream, both axes logarithmic."""
        figure = Figure(figsize=(3.6 * len(measured), 4.4), layout="constrained", dpi=130)
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(measured), sharey=True, squeeze=False)[0]
        figures, handles = self.figures(measured), {}
        for panel, axes in zip(self.panels, panels, strict=True):
            for i, (name, found) in enumerate(measured[panel.title].items()):
                contexts = list(map(int, found["errors"]))
                style = {"color": COLOURS[i], "marker": MARKS[i], "markersize": 4}
                seeds = list(found["errors"].values())
                handles[name] = line_of_seeds(axes, contexts, seeds, **style)
                means = list(map(fmean, seeds))
                measured_slope = fmean(figures[f"{panel.title}, {name}, slope"])
                self._label(axes, name, panel, contexts, means, measured_slope, COLOURS[i])
            axes.set(title=panel.title, xlabel="pairs read", xscale="log", yscale="log")
            axes.set_xticks(contexts[::2], [f"{n:,}" for n in contexts[::2]])
            axes.set_xlim(contexts[0] / 1.3, contexts[-1] * 2.9)
            axes.minorticks_off()
            axes.title.set_fontsize(11)
            unboxed(axes)
        panels[0].set_ylabel("squared error / variance of the map")
        theory = axes.plot([], [], "--", color="#444444", linewidth=1.1)[0]
        handles["slope of the theory"] = theory
        legend(figure, handles)
        return figure

    def _label(
        self,
        axes: Axes,
        name: str,
        panel: Panel,
        contexts: Sequence[int],
        means: Sequence[float],
        measured: float,
        colour: str,
    ) -> None:
        """The measured slope at the end of a line, and a dashed line with that of the theory through it."""
        axes.annotate(
            f"{round(measured, 2) or 0.0:.2f}",
            (contexts[-1], means[-1]),
            xytext=(6, 4 if name == panel.learners[-2].name else -4),
            textcoords="offset points",
            fontsize=9,
            color=colour,
            verticalalignment="center",
        )
        if name in self.rates:
            late = [n for n in contexts if n >= self.fitted_from]
            power = theoretical(self.rates[name], panel.settings["size"])
            line = [means[-1] * (n / contexts[-1]) ** power for n in late]
            axes.plot(late, line, "--", color=colour, linewidth=1.1)


def theoretical(rate: tuple[int, int], channels: int) -> float:
    """The slope -a / (p + b) of a rate (a, b), with p = channels - 1: unit keys of d channels fill a region
    of a sphere, which has d - 1 dimensions."""
    above, beside = rate
    return -above / (channels - 1 + beside)


def slope(numbers: Sequence[int | float], errors: Sequence[float]) -> float:
    """The slope of the line through log error against log number with the least squares."""
    x, y = ([math.log(number) for number in each] for each in (numbers, errors))
    middle = fmean(x)
    return sum((a - middle) * b for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)


def errors_by_context(arguments: dict[str, Any], folder: Path, checkpoint: Path, report: Report) -> Result:
    """The errors of one learner on streams of several seeds, at each context with the option that is best
    there on others.

    Returns:
        "errors" [S,N]: squared distance from the true value, mean over the tokens that have read n/2 to n
        pairs and over the streams of a seed, relative to the variance of the true values. "chosen", the
        number of the option at each context.
    """
    draw = functools.partial(STREAMS[arguments["stream"]], **arguments["settings"])
    options = [Option.from_dict(held) for held in arguments["options"]]
    contexts = arguments["contexts"]
    tuning = draw(seed=TUNING_SEED)
    spent = torch.stack([_by_context(option, tuning, contexts) for option in options])
    chosen = spent.nan_to_num(nan=math.inf).argmin(0)
    found = []
    for seed in arguments["seeds"]:
        stream = draw(seed=seed)
        of_option = {i: _by_context(options[i], stream, contexts) for i in set(chosen.tolist())}
        found.append(torch.stack([of_option[i][n] for n, i in enumerate(chosen.tolist())]))
    errors = torch.stack(found)
    report("convergence", 1, f"error {errors[:, -1].mean():.3g} at {contexts[-1]} pairs")
    return {"errors": errors}, {"chosen": chosen.tolist()}


def _by_context(option: Option, stream: Stream, contexts: Sequence[int]) -> Float[Tensor, " N"]:
    keys, values, truth = (x.double() for x in stream)
    off = (option.read(keys, values) - truth[:, 1:]).square().sum(-1).mean(0)  # token i has read i + 1 pairs
    windows = torch.stack([off[n // 2 - 1 : n].mean() for n in contexts])
    return windows / truth.flatten(0, 1).var(0).sum()
