"""``ttr bench`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ttr.experiments.bench.settings import BenchSettings
from ttr.experiments.errors import UserError

DEFAULTS = BenchSettings()


def bench_command(
    cases: Annotated[
        list[str] | None,
        typer.Argument(help=("Names, or their beginnings (gated-delta.forward); all if none.")),
    ] = None,
    engines: Annotated[
        str, typer.Option(help="Ours, with commas between; all that do not refuse if none.")
    ] = "",
    lengths: Annotated[
        str, typer.Option(help="Tokens, with commas between, in place of those of the cases.")
    ] = "",
    rounds: Annotated[int, typer.Option(help="Clean rounds that are wanted.")] = DEFAULTS.rounds,
    limit: Annotated[
        float, typer.Option(help=("Seconds; whoever takes longer for one call is left out from there on."))
    ] = DEFAULTS.limit,
    threads: Annotated[
        int, typer.Option(help="Threads of the measurement of time passed; 1 leaves it out.")
    ] = DEFAULTS.threads,
    onednn: Annotated[
        bool, typer.Option("--onednn", help=("Every row again with float32 products through oneDNN."))
    ] = False,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Measure peak memory too.")
    ] = DEFAULTS.memory,
    quick: Annotated[
        bool, typer.Option("--quick", help=("Short sequences, three rounds: to see that all works."))
    ] = False,
    show_list: Annotated[
        bool, typer.Option("--list", help="Show the cases and who takes part, and stop.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Folder of the results; the same arguments resume there.")
    ] = DEFAULTS.out,
) -> None:
    """How fast and how exact the memories are here, beside other implementations of the same functions."""
    from ttr.experiments.bench.run import bench, list_cases, wrong

    settings = BenchSettings(
        cases=tuple(cases or ()),
        engines=_names(engines),
        lengths=_numbers(lengths),
        rounds=rounds,
        limit=limit,
        threads=threads,
        onednn=onednn,
        memory=memory,
        quick=quick,
        out=out,
    )
    console = Console()
    if show_list:
        list_cases(settings, console)
        return
    raise typer.Exit(1 if wrong(bench(settings, console)) else 0)


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(",") if name.strip())


def _numbers(listed: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, _names(listed)))
    except ValueError:
        raise UserError(f"--lengths takes numbers with commas between, not {listed!r}.") from None
