"""Pictures that several experiments share."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ttr.experiments.picture import COLOURS

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
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
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
