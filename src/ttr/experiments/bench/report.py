"""The printed report of a benchmark: one table per case, and a list of cases and contestants."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ttr.experiments.bench.cases import Case
from ttr.experiments.bench.contestants import Contestant
from ttr.experiments.bench.results import Figures
from ttr.experiments.picture import readable

Row = Mapping[str, Any]


def show(case: Mapping[str, Any], console: Console) -> None:
    """Print a case: CPU time of a call with one thread, the speed-up over each peer, the error against
    float64, iterations of solvers, and which rows were not timed and why."""
    figures = Figures(case)
    console.print(f"[bold]{case['name']}[/]", highlight=False)
    if figures.timed:
        console.print(_table(figures))
    for line in _accuracy(figures):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for row in case["rows"]:
        if row["status"] != "timed":
            colour = "bold red" if row["status"] in ("refused", "wrong") else "yellow"
            console.print(
                f"[{colour}]{row['status']}[/] {row['name']}:",
                escape(row["why"]),
                highlight=False,
                soft_wrap=True,
            )
    for held in case["passes"]:
        console.print(_cleanliness(held), highlight=False, markup=False, soft_wrap=True)
    console.print()


def _table(figures: Figures) -> Table:
    """Rows in the order of their declaration; a column of ratios for every peer and floor."""
    others = [row["name"] for row in figures.timed if row["side"] != "ours"]
    columns = {"CPU time": _cpu, "range": _range} | (
        {"GFLOP/s": _rate, "of matmul": _share} if figures.case["flops"] else {}
    )
    columns |= {f"x {other}": functools.partial(_ratio, other=other) for other in others}
    columns |= {
        head: functools.partial(_error, part=part)
        for head, part in (("error", "output"), ("gradient error", "gradient"))
        if any(figures.error(row, part) is not None for row in figures.timed)
    }
    columns |= {"peak": _peak} if any(row["peak"] for row in figures.timed) else {}
    columns |= {f"{held['threads']} threads": _wall for held in figures.case["passes"][1:]}
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("", no_wrap=True)
    for head in columns:
        table.add_column(
            "\n".join(textwrap.wrap(head, 8, break_long_words=False)),
            justify="right",
            vertical="bottom",
            overflow="fold",
        )
    for row in figures.timed:
        table.add_row(
            row["name"],
            *(cell(figures, row) for cell in columns.values()),
            style="" if row["side"] == "ours" else "dim",
        )
    return table


def _cpu(figures: Figures, row: Row) -> str:
    return duration(figures.cpu(row["name"])["median"])


def _range(figures: Figures, row: Row) -> str:
    found = figures.cpu(row["name"])
    low, high = duration(found["low"]), duration(found["high"])
    return f"{low.removesuffix(high[high.index(' ') :])}-{high}"


def _rate(figures: Figures, row: Row) -> str:
    return f"{figures.rate(row['name']) / 1e9:.1f}"


def _share(figures: Figures, row: Row) -> str:
    return f"{figures.share(row['name']):.0%}"


def _ratio(figures: Figures, row: Row, other: str) -> str:
    return (
        "" if row["name"] == other else f"{figures.passes[0].ratio(row['name'], other, 'cpu')['median']:.2f}"
    )


def _error(figures: Figures, row: Row, part: str) -> str:
    found = figures.error(row, part)
    return "-" if found is None else f"{found:.0e}"


def _peak(figures: Figures, row: Row) -> str:
    return readable(row["peak"]["bytes"]) if row["peak"] else "-"


def _wall(figures: Figures, row: Row) -> str:
    found = figures.wall(row["name"])
    return duration(found["median"]) if found else "-"


def duration(seconds: float) -> str:
    """Seconds as 1.23 s, 45.6 ms, 789 us."""
    factor, unit = next(((f, u) for f, u in ((1, "s"), (1e3, "ms")) if seconds * f >= 1), (1e6, "us"))
    return f"{seconds * factor:.3g} {unit}" if seconds * factor < 999.5 else f"{seconds * factor:.0f} {unit}"


def _accuracy(figures: Figures) -> Iterator[str]:
    """The reference of the errors, or why there are none, and the iterations and residuals of our solvers."""
    if float64 := figures.case["float64"]:
        yield (
            f"error: {float64['why']}"
            if float64["why"]
            else (f"error: against {float64['of']} in float64, which passes the laws against the oracle.")
        )
    for row in figures.timed:
        if solves := row["solves"]:
            steps = f", at most {solves['iterations']} iterations" if solves["iterations"] else ""
            residual = "not finite" if solves["residual"] is None else f"at most {solves['residual']:.0e}"
            yield (
                f"{row['name']}: {solves['solver']}{steps}, residual {residual}, {solves['direct']:.1%} "
                "of the rows solved directly."
            )


def _cleanliness(held: Mapping[str, Any]) -> str:
    """The number of clean rounds, and its consequence for the figures."""
    total = len(held["rounds"])
    summary = (
        f"{held['threads']} thread{'s' * (held['threads'] > 1)}: {held['clean']} of {total} rounds clean"
    )
    if 2 * held["clean"] > total:
        return summary + (f", {held['discarded']} discarded." if held["discarded"] else ".")
    if held["threads"] > 1:
        return summary + ", so no time is shown."
    return summary + "; the CPU times include disturbed rounds, and elapsed time was not measured."


def listing(cases: Sequence[Case], contestants: Mapping[str, Sequence[Contestant]], console: Console) -> None:
    """Print the cases by family, and for every contestant whether it can run here, or why not."""
    for family in dict.fromkeys(case.family for case in cases):
        console.print(f"[bold]{family.name}[/]: {family.words}", highlight=False, soft_wrap=True)
        own = [case for case in cases if case.family == family]
        console.print("  " + "  ".join(case.name for case in own), highlight=False, markup=False)
        for contestant in {
            contestant.name: contestant for case in own for contestant in contestants[case.name]
        }.values():
            availability = contestant.missing(None) or "ready"
            console.print(
                f"  {contestant.side:5s} {contestant.name}: {availability}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        console.print()
