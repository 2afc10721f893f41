"""Figures of a benchmark: time and memory of each contestant against the length of the sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from ttr.experiments.bench.report import duration
from ttr.experiments.bench.results import Figures
from ttr.experiments.picture import COLOURS, png, readable, unboxed

STYLES = {
    "ours": {"linewidth": 2.2, "marker": "o"},
    "peer": {"linewidth": 1.4, "marker": "s", "linestyle": "--"},
    "floor": {"linewidth": 1.0, "marker": "", "linestyle": ":"},
}


def curves(cases: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The cases of every curve with at least two lengths, the shortest first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for case in sorted(cases, key=lambda case: case["shape"]["time"]):
        if case["passes"]:
            found.setdefault(case["curve"], []).append(case)
    return {curve: own for curve, own in found.items() if len(own) > 1}


def draw(curve: str, cases: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> bytes:
    """One curve as a PNG: CPU time per token and, if measured, peak memory against T."""
    remembered = any(row["peak"] for case in cases for row in Figures(case).timed)
    figure = Figure(figsize=(12 if remembered else 7, 4.8), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 if remembered else 1, squeeze=False)[0]
    names = {row["name"]: row["side"] for case in cases for row in case["rows"] if row["status"] == "timed"}
    for index, (name, side) in enumerate(names.items()):
        style = STYLES[side] | {
            "color": COLOURS[index % len(COLOURS)],
            "label": _label(name, cases),
            "markersize": 5,
        }
        own = [case for case in cases if any(row["name"] == name for row in Figures(case).timed)]
        _times(panels[0], name, own, style)
        if remembered:
            _peaks(panels[1], name, own, style)
    lengths = [case["shape"]["time"] for case in cases]
    _finish(panels[0], lengths, "CPU time per token, one thread", LogLocator(10, subs=(1, 2, 5)), duration)
    if remembered:
        _finish(panels[1], lengths, "peak memory besides the inputs", LogLocator(2), readable)
    shape = cases[0]["shape"]
    figure.suptitle(
        f"{cases[0]['family']}, {cases[0]['direction']}: B={shape['batch']} H={shape['heads']} "
        f"D={shape['key']}, "
        f"{machine['processor']}, torch {machine['torch']}",
        fontsize=11,
        fontweight="bold",
    )
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4 if remembered else 2,
        frameon=False,
        fontsize=9,
    )
    return png(figure)


def _times(axes: Axes, name: str, cases: Sequence[Mapping[str, Any]], style: Mapping[str, Any]) -> None:
    """Medians as a line, ranges as a band."""
    lengths = [case["shape"]["time"] for case in cases]
    per_token = [
        {
            key: seconds / (case["shape"]["batch"] * case["shape"]["time"])
            for key, seconds in Figures(case).cpu(name).items()
        }
        for case in cases
    ]
    axes.plot(lengths, [spread["median"] for spread in per_token], **style)
    axes.fill_between(
        lengths,
        [s["low"] for s in per_token],
        [s["high"] for s in per_token],
        color=style["color"],
        alpha=0.15,
        linewidth=0,
    )


def _peaks(axes: Axes, name: str, cases: Sequence[Mapping[str, Any]], style: Mapping[str, Any]) -> None:
    found = [
        (case["shape"]["time"], row["peak"]["bytes"])
        for case in cases
        for row in case["rows"]
        if row["name"] == name and row.get("peak")
    ]
    axes.plot([length for length, size in found if size], [size for _, size in found if size], **style)


def _label(name: str, cases: Sequence[Mapping[str, Any]]) -> str:
    """The name, and the length at which it was stopped if it was."""
    stopped = [
        case["shape"]["time"]
        for case in cases
        for row in case["rows"]
        if row["name"] == name and row["status"] == "stopped"
    ]
    return f"{name} (stopped at T = {stopped[0]:,})" if stopped else name


def _finish(
    axes: Axes, lengths: Sequence[int], title: str, places: LogLocator, words: Callable[[float], str]
) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sorted(set(lengths)), [f"{length:,}" for length in sorted(set(lengths))])
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    # the axis extends to the nearest ticks outside the data, if there are any
    ticks = places.tick_values(low, high)
    axes.set_ylim(
        max((tick for tick in ticks if tick <= low), default=low),
        min((tick for tick in ticks if tick >= high), default=high),
    )
    axes.yaxis.set_major_locator(places)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("tokens T")
    axes.set_title(title, fontsize=11)
    unboxed(axes)
