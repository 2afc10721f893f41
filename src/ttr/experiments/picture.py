"""The figure of a comparison: distances to the best memory, recall against state size, validation curves, and
bits by position."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
"""Okabe and Ito's palette, which colour-blind readers can distinguish; repeated if it is too short."""


def draw(results: Mapping[str, Any]) -> bytes:
    """The four panels as a PNG."""
    rows = results["memories"]
    names = [name for name in results["definitions"] if name in {row["name"] for row in rows}]
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    figure = Figure(figsize=(13, 5.5 + max(2.6, 0.42 * len(rows))), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2, width_ratios=(1.25, 1), height_ratios=(max(2.6, 0.42 * len(rows)), 3.2))
    (distances, state), (learning, position) = panels
    _distances(distances, rows, colour)
    _state(state, rows, colour)
    _unchanged(distances, state, results)
    _learning(learning, rows, colour, results)
    _by_position(position, results["by_position"], colour, results["tokens"]["unit"])
    for axes in panels.flat:
        unboxed(axes)
        axes.title.set(fontsize=11, fontweight="bold", horizontalalignment="left", x=0)
    return png(figure)


def unboxed(axes: Axes) -> None:
    """A light grid behind the data instead of a box around it."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def png(figure: Figure) -> bytes:
    """The same bytes for the same figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _distances(axes: Axes, rows: list[Mapping[str, Any]], colour: Mapping[str, str]) -> None:
    """The distance of each memory to the best on three sets of bytes, with its paired interval, the best on
    top."""
    styles = (
        ("recall", "o", "recall slice", -0.22),
        ("all", "D", "all bytes", 0.0),
        ("other", "s", "off the slice", 0.22),
    )
    for measure, marker, label, offset in styles:
        for y, row in enumerate(rows):
            own, behind = colour[row["name"]], row["behind_best"][measure]
            axes.plot(
                [behind["low"], behind["high"]],
                [y + offset] * 2,
                color=own,
                linewidth=2,
                solid_capstyle="butt",
                zorder=2,
            )
            axes.plot(
                behind["value"],
                y + offset,
                marker,
                color=own,
                markerfacecolor=_face(measure, own),
                markersize=7,
                zorder=3,
            )
        axes.plot(
            [],
            [],
            marker,
            color="#444444",
            markerfacecolor=_face(measure, "#444444"),
            label=label,
            linestyle="none",
        )
    axes.axvline(0, color="#444444", linewidth=1)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set(color=colour[row["name"]], fontweight="bold")  # the legend of all three panels
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("bits per byte behind the best, 95 % intervals")
    axes.set_title("Prediction of unseen text")
    axes.legend(loc="best", fontsize=8, framealpha=0.9, edgecolor="none")


def _face(measure: str, colour: str) -> str:
    return {"recall": colour, "all": "white", "other": "#d0d0d0"}[measure]


def _state(axes: Axes, rows: list[Mapping[str, Any]], colour: Mapping[str, str]) -> None:
    """Distance to the best on the recall slice against the bytes of the state."""
    for row in rows:
        behind = row["behind_best"]["recall"]
        axes.plot(
            [row["state_bytes"]] * 2,
            [behind["low"], behind["high"]],
            color=colour[row["name"]],
            linewidth=1.5,
        )
        axes.plot(row["state_bytes"], behind["value"], "o", color=colour[row["name"]], markersize=8)
    axes.set_xscale("log", base=2)
    _name_sizes(axes, [row["state_bytes"] for row in rows])
    axes.margins(x=0.25)
    axes.axhline(0, color="#444444", linewidth=1)
    axes.set_xlabel("state at the context's end")
    axes.set_ylabel("bits per byte behind the best")
    axes.set_title("Recall slice against state size")


def _unchanged(distances: Axes, state: Axes, results: Mapping[str, Any]) -> None:
    """The reference in grey, where it is a model with a state: its distance to the best on all bytes, and its
    state."""
    reference = results["references"][-1]
    if reference["state_bytes"] is None:
        return
    rows = {row["name"]: row for row in results["memories"]}

    def behind_best(measure: str) -> float:
        best = rows[results["best"][measure]]
        return reference["bits_per_byte"][measure]["value"] - best["bits_per_byte"][measure]["value"]

    grey = {"color": "#999999", "label": reference["name"]}
    distances.axvline(behind_best("all"), linestyle="--", **grey)
    distances.legend(loc="best", fontsize=8, framealpha=0.9, edgecolor="none")
    state.plot(reference["state_bytes"], behind_best("recall"), "o", markersize=8, **grey)
    state.legend(frameon=False, fontsize=8)
    _name_sizes(state, [row["state_bytes"] for row in (*rows.values(), reference)])


def _name_sizes(axes: Axes, sizes: Sequence[int]) -> None:
    ticks = _apart(sizes)
    axes.set_xticks(ticks, [readable(size) for size in ticks], fontsize=9)


def _apart(sizes: Sequence[int]) -> list[int]:
    """The sizes in rising order, without those whose label on a logarithmic axis would overlap the one
    before."""
    least_distance = 0.28 * math.log2(max(sizes) / min(sizes))
    ticks: list[int] = []
    for size in sorted(set(sizes)):
        if not ticks or math.log2(size / ticks[-1]) >= least_distance:
            ticks.append(size)
    return ticks


def _learning(
    axes: Axes, rows: list[Mapping[str, Any]], colour: Mapping[str, str], results: Mapping[str, Any]
) -> None:
    """Bits per byte of unseen text while the models of the first seed read. Diverged runs stay outside."""
    unigram, ngram, *_ = results["references"]
    for reference, style in ((unigram, ":"), (ngram, "--")):
        level = reference["bits_per_byte"]["all"]["value"]
        axes.axhline(level, color="#666666", linestyle=style, linewidth=1.2, label=reference["name"])
    lowest = ngram["bits_per_byte"]["all"]["value"]
    for row in rows:
        if points := row["validation_curve"]:
            steps, bits = zip(*points, strict=True)
            read = [step * results["budget"]["bytes"] / results["budget"]["steps"] / 1e6 for step in steps]
            axes.plot(read, bits, ".-", color=colour[row["name"]], linewidth=1.6)
            lowest = min(lowest, *bits)
    axes.set_ylim(0.95 * lowest, 1.1 * unigram["bits_per_byte"]["all"]["value"])
    axes.set_xlabel("megabytes read")
    axes.set_ylabel("bits per byte")
    axes.set_title("Unseen text while training")
    axes.legend(frameon=False, fontsize=8)


def _by_position(axes: Axes, found: Mapping[str, Any], colour: Mapping[str, str], unit: str) -> None:
    """Bits per byte by the distance from the window's beginning; grey for the plain transformer."""
    ends = found["ends"]
    highest = max(bits[0] for bits in found["bits_per_byte"].values())
    for name, bits in found["bits_per_byte"].items():
        axes.plot(ends, bits, "o-", color=colour.get(name, "#999999"), markersize=4, linewidth=1.6)
    lowest = min(min(bits) for bits in found["bits_per_byte"].values())
    axes.set_ylim(0.95 * lowest, 1.25 * highest)  # those that fail beyond the training length leave the panel
    axes.set_xscale("log", base=2)
    axes.set_xticks(ends, [f"{end:,}" for end in ends])
    axes.minorticks_off()
    axes.set_xlabel(f"{unit} into the window (the first mark is the training length)")
    axes.set_ylabel("bits per byte")
    axes.set_title("Beyond the training length")


def readable(size: int | float) -> str:
    """Bytes as 512 B, 16 KiB, 1.5 MiB."""
    power = min(int(math.log2(max(size, 1)) // 10), 3)
    return f"{size / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}"
