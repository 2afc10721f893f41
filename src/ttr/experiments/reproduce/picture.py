"""Pictures that several experiments share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ttr.experiments.picture import COLOURS, unboxed
from ttr.tasks.task import SHARE

Scores = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
"""The values of all seeds by panel, name and number."""

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
            style = {"color": colour, "linestyle": dash}
            handles[name] = line_of_seeds(axes, found["pairs"], found["errors"], **style)
        axes.set(title=title, xlabel="pairs read", xscale=time, yscale="log")
        axes.title.set_fontsize(11)
        unboxed(axes)
    panels[0].set_ylabel("squared error / squared values")
    panels[0].set_ylim(bottom=max(LEAST, panels[0].get_ylim()[0]))
    legend(figure, handles)
    return figure


def line_of_seeds(
    axes: Axes, x: Sequence[float], seeds: Sequence[Sequence[float]], color: str, **style: Any
) -> Line2D:
    """A line through the means over the seeds of each point, in a band from the lowest to the highest."""
    low, high = ([end(each) for each in seeds] for end in (min, max))
    axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    means = list(map(fmean, seeds))
    return axes.plot(x, means, color=color, **{"linewidth": 1.8, "markersize": 5} | style)[0]


def legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    """Below all panels, in as many columns as there is room for."""
    letters = 12 * figure.get_figwidth()
    columns = int(letters / (8 + max(map(len, handles))))
    figure.legend(
        handles.values(),
        handles,
        loc="outside lower center",
        ncols=min(max(columns, 1), len(handles)),
        frameon=False,
    )


def scores(measured: Scores, along: str, up: str, marked: int | None = None) -> Figure:
    """A panel for each lesson: lines over what the names of the judged tasks count, or a row for each layer
    if there is one judged task alone. ``marked`` gets a vertical line, a number of channels."""
    if all(len(found) == 1 for layers in measured.values() for found in layers.values()):
        return dots(
            {
                title: {layer: next(iter(found.values())) for layer, found in layers.items()}
                for title, layers in measured.items()
            },
            up,
        )
    return by_number(measured, along, up, marked)


def by_number(measured: Scores, along: str, up: str, marked: int | None = None) -> Figure:
    """In each panel a line for each name over numbers, which are the keys of its values of all seeds."""
    names = list(dict.fromkeys(name for layers in measured.values() for name in layers))
    figure = Figure(figsize=(max(6.4, 3.9 * len(measured)), 4.4), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(measured), sharey=True, squeeze=False)[0]
    handles: dict[str, Any] = {}
    for axes, (title, layers) in zip(panels, measured.items(), strict=True):
        numbers: list[float] = []
        for name, found in layers.items():
            i = names.index(name)
            colour, dash = COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]
            numbers = [float(number) for number in found]
            style = {"color": colour, "linestyle": dash, "marker": "o"}
            handles[name] = line_of_seeds(axes, numbers, list(found.values()), **style)
        if numbers[-1] >= 8 * numbers[0]:
            axes.set_xscale("log", base=2)
        axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
        axes.minorticks_off()
        if marked is not None:
            _mark(axes, marked)
        axes.set(title=title, xlabel=along)
        axes.title.set_fontsize(11)
        unboxed(axes)
    panels[0].set_ylabel(up)
    _scale(panels[0].set_yscale, panels[0].set_ylim, up)
    legend(figure, handles)
    return figure


def _mark(axes: Axes, channels: int) -> None:
    axes.axvline(channels, color="#444444", linestyle=":", linewidth=1)
    axes.annotate(
        f"{channels:g} channels",
        (channels, 0.02),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        fontsize=9,
    )


def _scale(set_scale: Callable[[str], Any], set_limits: Callable[..., Any], what: str) -> None:
    """Shares from 0 to 1; errors on a logarithmic scale."""
    if what == SHARE:
        set_limits(-0.03, 1.04)
    else:
        set_scale("log")


def dots(measured: Mapping[str, Mapping[str, Sequence[float]]], along: str) -> Figure:
    """In each panel a row for each name: its mean, and a dot for each seed."""
    names = list(dict.fromkeys(name for layers in measured.values() for name in layers))
    columns = 2 if len(measured) == 4 else min(3, len(measured))
    rows = -(-len(measured) // columns)
    size = (7.2 if columns == 1 else 2.2 + 2.6 * columns, rows * (1.1 + 0.34 * len(names)))
    figure = Figure(figsize=size, layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, sharey=True, sharex=True, squeeze=False).ravel()
    for axes, (title, layers) in zip(panels, measured.items(), strict=False):
        for name, seeds in layers.items():
            y = names.index(name)
            axes.plot(seeds, [y] * len(seeds), ".", color=COLOURS[1], markersize=7, zorder=3)
            axes.plot(fmean(seeds), y, "D", color=COLOURS[0], markersize=8, zorder=2)
        axes.set(title=title)
        axes.title.set_fontsize(11)
        unboxed(axes)
    for axes in panels[len(measured) :]:
        axes.set_visible(False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    _scale(panels[0].set_xscale, panels[0].set_xlim, along)
    figure.supxlabel(f"{along} (dots are seeds, diamonds their means)", fontsize=10)
    return figure
