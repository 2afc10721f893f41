"""``ttr bench`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ttr.experiments.bench.settings import BenchSettings
from ttr.experiments.settings import names_in, numbers_in

DEFAULTS = BenchSettings()

Cases = Annotated[
    list[str] | None,
    typer.Argument(help="Names or prefixes of names (gated-delta.forward); default: all."),
]
Engines = Annotated[
    str, typer.Option(help="Our engines, separated by commas; default: all that do not refuse.")
]
Lengths = Annotated[str, typer.Option(help="Tokens, separated by commas, instead of those of the cases.")]
Rounds = Annotated[int, typer.Option(help="Number of clean rounds.")]
Limit = Annotated[
    float,
    typer.Option(help="Seconds; a row that takes longer for one call is left out at greater lengths."),
]
Threads = Annotated[int, typer.Option(help="Threads of the measurement of elapsed time; 1 leaves it out.")]
OneDNN = Annotated[
    bool, typer.Option("--onednn", help="Time every row again with float32 products through oneDNN.")
]
Memory = Annotated[bool, typer.Option("--memory/--no-memory", help="Measure peak memory too.")]
Quick = Annotated[bool, typer.Option("--quick", help="Short sequences and three rounds, as a smoke test.")]
Hybrids = Annotated[
    bool,
    typer.Option(
        "--hybrids",
        help="Measure transformers' recurrent models before and after acceleration instead; CASES are "
        "families of them.",
    ),
]
List = Annotated[bool, typer.Option("--list", help="Show the cases and their rows, and stop.")]
Out = Annotated[Path, typer.Option(help="Folder of the results; the same arguments resume there.")]


def bench_command(
    cases: Cases = None,
    engines: Engines = "",
    lengths: Lengths = "",
    rounds: Rounds = DEFAULTS.rounds,
    limit: Limit = DEFAULTS.limit,
    threads: Threads = DEFAULTS.threads,
    onednn: OneDNN = False,
    memory: Memory = DEFAULTS.memory,
    quick: Quick = False,
    hybrids: Hybrids = False,
    show_list: List = False,
    out: Out = DEFAULTS.out,
) -> None:
    """Measure how fast and how exact the memories are here, compared with other implementations."""
    from ttr.experiments.bench.run import bench, list_cases, wrong

    settings = BenchSettings(
        cases=tuple(cases or ()),
        engines=names_in(engines),
        lengths=numbers_in(lengths, "--lengths"),
        rounds=rounds,
        limit=limit,
        threads=threads,
        onednn=onednn,
        memory=memory,
        quick=quick,
        out=out,
    )
    console = Console()
    if hybrids:
        from ttr.experiments.bench.hybrids_table import table

        table(settings.cases, settings.rounds, settings.out, console)
        return
    if show_list:
        list_cases(settings, console)
        return
    raise typer.Exit(1 if wrong(bench(settings, console)) else 0)
