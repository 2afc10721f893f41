"""``ttr reproduce`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ttr.experiments.command import CORES, Jobs, RayAddress


def reproduce_command(
    names: Annotated[
        list[str] | None, typer.Argument(help="Experiments; without any they are listed with their claims.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All experiments.")] = False,
    scale: Annotated[
        str, typer.Option(help="How large: smoke (to see that it runs), laptop, or gpu (trains on one).")
    ] = "laptop",
    jobs: Jobs = CORES,
    ray: RayAddress = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the results; what was computed there before is kept.")
    ] = Path("runs/reproduce"),
) -> None:
    """Show the paper's claims: run experiments and check that their figures lie in the bands they must."""
    from ttr.experiments.reproduce.claims import EXPERIMENTS
    from ttr.experiments.reproduce.run import ReproduceSettings, reproduce

    console = Console()
    if not names and not all_:
        for name, experiment in EXPERIMENTS.items():
            console.print(f"[bold]{name}[/]", highlight=False)
            console.print(f"  {experiment.claim}", highlight=False, markup=False)
        return
    settings = ReproduceSettings(tuple(EXPERIMENTS if all_ else names or ()), scale, out, jobs, ray)
    raise typer.Exit(0 if reproduce(settings, console) else 1)
