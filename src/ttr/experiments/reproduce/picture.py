"""Pictures that several experiments share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ttr.experiments.picture import COLOURS, unboxed

LEAST = 1e-4
"""Errors below it are as good as none."""
DASHES = ("-", "--", ":")


def errors_over_time(measured: Mapping[str, Mapping[str, Any]], time: str) -> Figure:
    """A panel for each kind of stream: the error of every learner, on a logarithmic scale, against the number
    of pairs read; lines are means over seeds, bands reach from the lowest to the highest seed."""
    names = list(dict.fromkeys(name for learners in measured.values() for name in learners))
    figure = Figure(figsize=(max(6.4, 4.3 * len(measured)), 4.4), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(measured), sharey=True, squeeze=False)[0]
    handles: dict[str, Any] = {}
    for axes, (title, learners) in zip(panels, measured.items(), strict=True):
        for name, found in learners.items():
            i = names.index(name)
            colour, dash = COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]
            pairs, errors = found["pairs"], found["errors"]
            low, high = ([end(each) for each in errors] for end in (min, max))
            axes.fill_between(pairs, low, high, color=colour, alpha=0.15, linewidth=0)
            (handles[name],) = axes.plot(pairs, list(map(fmean, errors)), dash, color=colour, linewidth=1.8)
        axes.set(title=title, xlabel="pairs read", xscale=time, yscale="log")
        axes.title.set_fontsize(11)
        unboxed(axes)
    panels[0].set_ylabel("squared error / squared values")
    panels[0].set_ylim(bottom=max(LEAST, panels[0].get_ylim()[0]))
    figure.legend(
        handles.values(),
        handles,
        loc="outside lower center",
        ncols=min(2 if len(measured) == 1 else 4, len(names)),
        frameon=False,
    )
    return figure


def by_number(
    measured: Mapping[str, Mapping[str, Any]], along: str, up: str, marked: float | None = None
) -> Figure:
    """A line for each name over numbers, which are the keys of its values of all seeds; a vertical line at
    ``marked``, the number of channels."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for i, (name, found) in enumerate(measured.items()):
        numbers, colour = [float(number) for number in found], COLOURS[i % len(COLOURS)]
        low, high = ([end(values) for values in found.values()] for end in (min, max))
        axes.fill_between(numbers, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(numbers, list(map(fmean, found.values())), "o-", color=colour, linewidth=1.8, label=name)
    if marked is not None:
        axes.axvline(marked, color="#444444", linestyle=":", linewidth=1)
        axes.annotate(
            f"{marked:g} channels",
            (marked, 0.02),
            xycoords=("data", "axes fraction"),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=9,
        )
    axes.set(xlabel=along, ylabel=up, ylim=(-0.02, 1.04))
    unboxed(axes)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def dots(values: Mapping[str, Sequence[float]], along: str) -> Figure:
    """A row for each name: its mean, and a dot for each seed."""
    figure = Figure(figsize=(7.2, 1.1 + 0.36 * len(values)), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for y, seeds in enumerate(values.values()):
        axes.plot(seeds, [y] * len(seeds), ".", color=COLOURS[1], markersize=7, zorder=3)
        axes.plot(fmean(seeds), y, "D", color=COLOURS[0], markersize=8, zorder=2)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.set(xlabel=f"{along} (dots are seeds, diamonds their means)", xlim=(-0.03, 1.03))
    unboxed(axes)
    return figure
