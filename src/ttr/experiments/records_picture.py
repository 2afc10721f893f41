"""The figure of a probe with planted records: the gain against the number of pairs and against state size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ttr.experiments.picture import COLOURS, png, readable, unboxed

MARKERS = "osD^vP*X"


def draw(results: Mapping[str, Any]) -> bytes:
    """Two panels as a PNG: the mean over the seeds, and a dot for each seed."""
    judged, possible = results["recipe"]["pairs_judged"], results["chance_bits"]
    rows = results["memories"].items()
    figure = Figure(figsize=(11, 4.6), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    left, right = axes = figure.subplots(1, 2, sharey=True, width_ratios=(1.2, 1))
    for i, (name, row) in enumerate(rows):
        gains = [row["pairs"][str(pairs)]["gain"] for pairs in judged]
        beside = 1.025 ** (i - (len(rows) - 1) / 2)  # so that no memory hides another
        _seeds(left, i, [pairs * beside for pairs in judged], gains, name)
        by_size = sorted((row, *row["other_head_sizes"]), key=lambda size: size["state_bytes"])
        most = [size["pairs"][str(judged[-1])]["gain"] for size in by_size]
        _seeds(right, i, [size["state_bytes"] * beside for size in by_size], most, name)
    for panel in axes:
        panel.axhline(possible, color="#444444", linestyle="--", linewidth=1)
        panel.axhline(0, color="#444444", linestyle=":", linewidth=1)
        panel.set_ylim(min(-0.3, panel.get_ylim()[0]), possible + 0.4)
        unboxed(panel)
        panel.set_xscale("log", base=2)
        panel.minorticks_off()
    left.set_xticks(judged, [str(pairs) for pairs in judged])
    left.set_xlabel("records in the window")
    left.set_ylabel("gain, bits per value byte")
    left.set_title("Values repeated for the first time")
    right.xaxis.set_major_formatter(lambda size, _: readable(size))
    right.margins(x=0.2)
    right.set_xlabel("state at the window's end")
    right.set_title(f"The same at {judged[-1]} records, by state size")
    for words, height in (("exact memory", possible), ("chance", 0.0)):
        right.text(0.5, height + 0.08, words, transform=right.get_yaxis_transform(), ha="center", fontsize=9)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9, frameon=False
    )
    return png(figure)


def _seeds(axes: Axes, i: int, places: Sequence[float], gains: Sequence[Sequence[float]], name: str) -> None:
    """The means at their places, joined, and a line of dots of the seeds at each; the style is that of memory
    ``i``."""
    colour = COLOURS[i % len(COLOURS)]
    for place, each in zip(places, gains, strict=True):
        axes.plot([place] * len(each), sorted(each), ".-", color=colour, markersize=5, linewidth=1)
    means = [fmean(each) for each in gains]
    axes.plot(places, means, MARKERS[i % len(MARKERS)] + "-", color=colour, markersize=8, label=name)
