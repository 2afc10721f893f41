"""A benchmark as a person reads it: one table per case, and a list of cases and contestants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ttr.experiments.bench.cases import Case
from ttr.experiments.bench.contestants import Contestant
from ttr.experiments.bench.results import Figures
from ttr.experiments.picture import readable


def show(case: Mapping[str, Any], console: Console) -> None:
    """Print a case: milliseconds of CPU time with one thread, how many times faster than each peer, and who was not timed and why."""
    figures = Figures(case)
    peers = [row["name"] for row in figures.timed if row["side"] != "ours"]
    several = next((held["threads"] for held in case["passes"] if held["threads"] > 1), None)
    console.print(f"[bold]{case['name']}[/]", highlight=False)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    table.add_column("", no_wrap=True)
    heads = ["CPU ms", "range", "GFLOP/s", "of matmul", *(f"x {name}" for name in peers), "peak", *([f"ms on {several}"] if several else [])]
    for head in heads:
        table.add_column(head, justify="right", overflow="fold")
    for row in figures.timed:
        table.add_row(row["name"], *_cells(figures, row, peers, bool(several)), style="" if row["side"] == "ours" else "dim")
    if figures.timed:
        console.print(table)
    for row in case["rows"]:
        if row["status"] != "timed":
            bad = "[bold red]" if row["status"] in ("refused", "wrong") else "[yellow]"
            console.print(f"  {bad}{row['status']}[/] {row['name']}: ", end="", highlight=False)
            console.print(row["why"], highlight=False, markup=False, soft_wrap=True)
    console.print(*(_cleanliness(held) for held in case["passes"]), highlight=False, markup=False, soft_wrap=True)


def _cells(figures: Figures, row: Mapping[str, Any], peers: Sequence[str], several: bool) -> list[str]:
    name = row["name"]
    cpu, wall = figures.cpu(name), figures.wall(name)
    ratios = [figures.passes[0].ratio(name, peer, "cpu")["median"] for peer in peers]
    return [f"{1e3 * cpu['median']:.3g}", f"{1e3 * cpu['low']:.3g}-{1e3 * cpu['high']:.3g}", f"{figures.rate(name) / 1e9:.1f}",
            f"{figures.share(name):.0%}", *("" if peer == name else f"{ratio:.2f}" for peer, ratio in zip(peers, ratios)),
            "" if row.get("peak") is None else readable(row["peak"]), *([f"{1e3 * wall['median']:.3g}" if wall else "-"] if several else [])]


def _cleanliness(held: Mapping[str, Any]) -> str:
    """How many rounds were clean, and what that means for the figures."""
    total = len(held["rounds"])
    told = f"{held['threads']} thread{'s' * (held['threads'] > 1)}: {held['clean']} of {total} rounds clean"
    if 2 * held["clean"] > total:
        return told + (f", {held['discarded']} discarded." if held["discarded"] else ".")
    if held["threads"] > 1:
        return told + ", so no time is shown."
    return told + "; the CPU times are those of all, disturbed ones too, and time passed was not measured."


def listing(cases: Sequence[Case], contestants: Mapping[str, Sequence[Contestant]], console: Console) -> None:
    """Print the cases by family, and of every contestant whether it is there or why not."""
    for family in dict.fromkeys(case.family for case in cases):
        console.print(f"[bold]{family.name}[/]: {family.words}", highlight=False, soft_wrap=True)
        console.print("  " + "  ".join(case.name for case in cases if case.family == family), highlight=False, markup=False)
        for contestant in contestants[family.name]:
            why = contestant.missing(None)
            console.print(f"  {contestant.side:5s} {contestant.name}: {why or 'ready'}", highlight=False, markup=False, soft_wrap=True)
        console.print()
