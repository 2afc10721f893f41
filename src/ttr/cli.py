"""The command line: each command is a thin wrapper around a function of the library."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ttr.experiments.bench.command import bench_command
from ttr.experiments.command import compare_command, recall_command
from ttr.experiments.errors import UserError, for_the_user
from ttr.experiments.reproduce.command import reproduce_command
from ttr.experiments.train.command import train_command

if TYPE_CHECKING:
    import torch

    from ttr.laws.verify import Report

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Test-time regression: memories for sequence models, composed, verified and compared.",
)
console = Console()
STYLES = {"ok": "green", "note": "yellow", "wrong": "bold red"}


def main() -> None:
    """Run a command. Errors that the user can correct are printed as one sentence, with exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        # file names may contain bytes that the terminal's encoding cannot show
        stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="ttr")
    except UserError as error:
        Console(stderr=True).print(f"[bold red]ttr:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from None


def _show_versions(wanted: bool) -> None:
    if wanted:
        import torch

        import ttr

        typer.echo(f"ttr {ttr.__version__}, torch {torch.__version__}, Python {platform.python_version()}")
        raise typer.Exit()


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_versions,
            is_eager=True,
            help="Show the versions of ttr, torch and Python.",
        ),
    ] = False,
) -> None:
    """The options of the program itself, which come before a command."""


def memories_named(name: str) -> dict[str, object]:
    """The Problems or Architectures of a catalogue name, or of a Python file that defines ``memory`` or
    ``memories``."""
    import ttr
    from ttr.experiments.user_file import load_memories

    if name.endswith(".py"):
        return load_memories(Path(name))
    try:
        return {name: ttr.catalogue[name]}
    except KeyError as error:
        from ttr.engines import ENGINES

        hint = " A file must end in .py." if "/" in name or "." in name else ""
        if name in (engine.name for engine in ENGINES):
            hint = " It is an engine: repeat the option for each, --engine A --engine B."
        raise UserError(f"{error.args[0]}{hint}") from None


app.command("compare")(compare_command)
app.command("recall")(recall_command)
app.command("train")(train_command)
app.command("reproduce")(reproduce_command)


@app.command("list")
def list_command(
    combinations: Annotated[
        bool, typer.Option("--combinations", help=("All triples of the components' examples."))
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """The named layers by family, or all combinations: named, unnamed, and refused with the reason."""
    import ttr
    from ttr.combinations import composition, lines, to_dict

    if as_json:
        found = (
            to_dict() if combinations else {name: entry.to_dict() for name, entry in ttr.catalogue.items()}
        )
        typer.echo(json.dumps(found, indent=1))
        return
    if combinations:
        typer.echo("\n".join(lines()))
        return
    width = max(map(len, ttr.catalogue))
    for family, names in ttr.catalogue.FAMILIES.items():
        say(f"[bold]{escape(family)}[/]")
        for name in names:
            entry = ttr.catalogue[name]
            say(f"  [cyan]{name:{width}s}[/]  {entry.year}  {escape(composition(entry.problem))}")
        say("")
    say(
        f"{len(ttr.catalogue)} layers: year, and weights x function x solver. `ttr explain NAME` describes "
        "one."
    )


@app.command("explain")
def explain_command(
    name: Annotated[str, typer.Argument(help=("A catalogue name, or a Python file that defines `memory`."))],
    latex: Annotated[
        bool, typer.Option("--latex", help=("Print LaTeX (amsmath) to paste into a paper."))
    ] = False,
    route: Annotated[
        bool, typer.Option("--route", help="Only the files that a call passes through.")
    ] = False,
    heads: Annotated[
        int | None, typer.Option(help="Heads; with both sizes, state and cost are given in numbers.", min=1)
    ] = None,
    key_size: Annotated[int | None, typer.Option(help="Channels of a key.", min=1)] = None,
    value_size: Annotated[int | None, typer.Option(help="Channels of a value.", min=1)] = None,
    tokens: Annotated[
        int, typer.Option(help="Number of pairs in a memory that stores all of them.", min=1)
    ] = 1024,
) -> None:
    """A memory in formulas: its inputs, state and cost, which engine runs it, and why the others do not."""
    import ttr

    for each, entry in memories_named(name).items():
        with for_the_user():
            explanation = ttr.explain(
                entry, name=each, heads=heads, key_size=key_size, value_size=value_size, tokens=tokens
            )
        if route:
            width = max(len(step) for step, _ in explanation.route)
            typer.echo(
                "\n".join([each, *(f"  {step.ljust(width)}  {file}" for step, file in explanation.route)])
                + "\n"
            )
        else:
            typer.echo(f"{explanation.latex() if latex else explanation}\n")


@app.command("new")
def new_command(
    kind: Annotated[str, typer.Argument(help="weight, function, solver, feature or gate.")],
    name: Annotated[str, typer.Argument(help="Name of the class, in CamelCase.")],
    folder: Annotated[
        Path | None,
        typer.Option(help="The folder to write to; by default the checkout of the project that you are in."),
    ] = None,
) -> None:
    """Write the skeleton of a component, which runs as it is, and its hand-worked case."""
    from ttr.new import new

    with for_the_user():
        component, case = new(kind, name, folder)
    typer.echo(f"wrote {component}: change what it computes, its formulas and its examples")
    typer.echo(f"wrote {case}: compute the numbers by hand again")
    if folder is None:
        where = "test_layer.py" if kind == "gate" else "test_worked.py"
        typer.echo(f"Next: pytest tests/{where} tests/test_components.py -k {name}; see CONTRIBUTING.md")
    else:
        typer.echo(f"Next: pytest {case}; ttr explain {component}; ttr verify {component}")


@app.command("verify")
def verify_command(
    names: Annotated[
        list[str] | None, typer.Argument(help=("Catalogue names, or Python files that define `memory`."))
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every catalogue entry.")] = False,
    device: Annotated[str, typer.Option(help="Device that the engines run on.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float64 or float32.")] = "float64",
    laws: Annotated[
        list[str] | None, typer.Option("--law", help="Only this law, by number or name; may be repeated.")
    ] = None,
    engines: Annotated[
        list[str] | None, typer.Option("--engine", help="Only this engine; may be repeated.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help=("Leave out the slow laws, which take seconds each."))
    ] = False,
    as_json: Annotated[
        Path | None, typer.Option("--json", help=("Also write every measurement to this file."))
    ] = None,
) -> None:
    """Run the laws on this machine and print every measured error and its bound: per engine for one memory,
    the worst engine for several."""
    import torch

    import ttr
    from ttr.doctor import devices
    from ttr.experiments.storage import to_json, write

    if bool(names) == everything:
        raise UserError("Name memories (ttr list shows the names), or use --all.")
    if dtype not in ("float64", "float32"):
        raise UserError(f"The dtype {dtype!r} is not verified. Use float64 or float32.")
    if device.split(":")[0] not in devices():
        raise UserError(f"This machine has no device {device!r}. Use {' or '.join(devices())}.")
    if as_json is not None and not os.path.isdir(as_json.parent):
        raise UserError(f"There is no folder {as_json.parent}. Create it first, or name another file.")
    found = (
        dict(ttr.catalogue)
        if everything
        else {each: entry for name in names for each, entry in memories_named(name).items()}
    )
    which = {"engines": engines or None, "laws": laws or None, "slow": not quick}
    with for_the_user():
        reports = _verify(found, device, getattr(torch, dtype), which)
    if as_json is not None:
        record = {
            "ttr": ttr.__version__,
            "torch": torch.__version__,
            "memories": {name: report.to_dict() for name, report in reports.items()},
        }
        write(as_json, to_json(record))
    idle = [name for name, report in reports.items() if not report.ran]
    if idle:
        refusals = {f.refusal for name in idle for f in reports[name].findings if f.refusal is not None}
        raise UserError(f"No law ran for {', '.join(idle)}. {' '.join(sorted(refusals))}")
    failed = [name for name, report in reports.items() if not report]
    passed = f"[green]All laws passed[/] for {', '.join(reports) if names else f'all {len(reports)} layers'}."
    say(f"[bold red]Laws failed for {', '.join(failed)}.[/]" if failed else passed)
    raise typer.Exit(1 if failed else 0)


def _verify(
    memories: dict[str, object], device: str, dtype: torch.dtype, which: dict[str, Any]
) -> dict[str, Report]:
    """The report of every memory. Its rows are printed as soon as they are measured, above a progress bar."""
    import ttr
    from ttr.laws.verify import count, describe

    reports: dict[str, Report] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    total = sum(count(entry, **which) for entry in memories.values())
    with Progress(*columns, console=console, transient=True, expand=True) as progress:
        task = progress.add_task("", total=total)
        for name, entry in memories.items():

            def on_law(engine: str, law: str, name: str = name) -> None:
                progress.update(task, description=f"{name}: {engine}, {law}")

            def on_done() -> None:
                progress.advance(task)

            reports[name] = report = ttr.verify(entry, device, dtype, **which, progress=on_law, done=on_done)
            say(
                f"[bold]{escape(name)}[/] on {device} in {str(dtype).removeprefix('torch.')}, "
                f"{report.seconds:.0f} s"
            )
            for finding in report.ran if len(memories) == 1 else report.by_law():
                mark = (
                    "[bold red]FAILED[/]"
                    if not finding.passed
                    else "  -   "
                    if finding.shown is None
                    else "[green]passed[/]"
                )
                say(
                    f"  {finding.number:2d} {finding.law:36s} {mark} "
                    f"{escape(f'{describe(finding)}, {finding.engine}')}"
                )
    return reports


def say(line: str) -> None:
    """Print a line with markup, without wrapping or automatic highlighting."""
    console.print(line, highlight=False, soft_wrap=True)


@app.command("doctor")
def doctor_command() -> None:
    """What this machine supports, and every engine compared with the oracle on it."""
    from ttr.doctor import examine

    wrong = 0
    for finding in examine():
        mark = f"[{STYLES[finding.mark]}]{finding.mark:5s}[/]"
        console.print(
            f"{mark} {escape(f'{finding.subject:32s} {finding.words}')}", highlight=False, soft_wrap=True
        )
        wrong += finding.mark == "wrong"
    raise typer.Exit(1 if wrong else 0)


app.command("bench")(bench_command)
