"""The figure of a probe with planted records: the gain against the number of pairs and against state size."""

from __future__ import annotations

import io
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ttr.experiments.picture import COLOURS, readable

MARKERS = "osD^vP*X"


def draw(results: Mapping[str, Any]) -> bytes:
    """Two panels as a PNG: the mean over the seeds, and a bar from the lowest seed to the highest."""
    judged, possible = results["recipe"]["pairs_judged"], results["chance_bits"]
    figure = Figure(figsize=(11, 4.4), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    left, right = axes = figure.subplots(1, 2, sharey=True, width_ratios=(1.2, 1))
    for i, (name, row) in enumerate(results["memories"].items()):
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "capsize": 3}
        gains = [row["pairs"][str(pairs)]["gain"] for pairs in judged]
        means = [fmean(each) for each in gains]
        bars = [
            [mean - min(each) for mean, each in zip(means, gains)],
            [max(each) - mean for mean, each in zip(means, gains)],
        ]
        moved = [pairs * 1.02 ** (i - 2) for pairs in judged]  # side by side where bars would overlap
        left.errorbar(moved, means, bars, label=name, **style)
        bar = [[bars[0][-1]], [bars[1][-1]]]
        right.errorbar([row["state_bytes"]], means[-1:], bar, linestyle="none", **style)
    for panel in axes:
        panel.axhline(possible, color="#444444", linestyle="--", linewidth=1)
        panel.axhline(0, color="#444444", linestyle=":", linewidth=1)
        panel.set_ylim(min(-0.3, panel.get_ylim()[0]), possible + 0.35)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#e6e6e6", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.set_xscale("log", base=2)
        panel.minorticks_off()
    left.set_xticks(judged, [str(pairs) for pairs in judged])
    left.annotate(
        "exact memory", (judged[0], possible), xytext=(0, 3), textcoords="offset points", fontsize=8
    )
    left.annotate("chance", (judged[0], 0), xytext=(0, -10), textcoords="offset points", fontsize=8)
    left.set_xlabel("records in the window")
    left.set_ylabel("gain, bits per value byte")
    left.set_title("Values repeated for the first time")
    left.legend(fontsize=8, framealpha=0.9, edgecolor="none")
    sizes = sorted({row["state_bytes"] for row in results["memories"].values()})
    right.set_xticks(sizes, [readable(size) for size in sizes], fontsize=8, rotation=30)
    right.margins(x=0.2)
    right.set_xlabel("state at the window's end")
    right.set_title(f"The same at {judged[-1]} records, by state size")
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
