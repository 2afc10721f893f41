"""The command line: thin, each command a few lines around a function of the library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from ttr.experiments.errors import UserError
from ttr.experiments.settings import CompareSettings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
                  help="Test-time regression: memories for sequence models, composed, verified and compared.")
console = Console()
DEFAULTS = CompareSettings()
STYLES = {"ok": "green", "note": "yellow", "wrong": "bold red"}


def main() -> None:
    """Run a command; what the user can put right is one sentence and exit code 1."""
    try:
        app()
    except UserError as error:
        Console(stderr=True).print(f"[bold red]ttr:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from None


def memories_named(name: str) -> dict[str, object]:
    """The Problems or Architectures of a catalogue name, or of a Python file that defines ``memory`` or ``memories``."""
    import ttr
    from ttr.experiments.user_file import load_memories

    if name.endswith(".py"):
        return load_memories(Path(name))
    try:
        return {name: ttr.catalogue[name]}
    except KeyError as error:
        hint = " A file must end in .py." if "/" in name or "." in name else ""
        raise UserError(f"{error.args[0]}{hint}") from None


@app.command("compare")
def compare_command(
    files: Annotated[list[Path] | None, typer.Argument(help="Text files; Python's own standard library when none are named.")] = None,
    layers: Annotated[str, typer.Option(help="Names from `ttr list`, with commas between.")] = ",".join(DEFAULTS.layers),
    memory: Annotated[Path | None, typer.Option(help="A Python file that defines `memory`, or `memories` by name; it is executed.")] = None,
    steps: Annotated[int, typer.Option(help="Training steps per model.")] = DEFAULTS.steps,
    width: Annotated[int, typer.Option(help="Width of the models.")] = DEFAULTS.width,
    context: Annotated[int, typer.Option(help="Bytes per window.")] = DEFAULTS.context,
    batch: Annotated[int, typer.Option(help="Windows per step.")] = DEFAULTS.batch,
    seed: Annotated[int, typer.Option(help="First seed of data order and initial weights.")] = DEFAULTS.seed,
    seeds: Annotated[int, typer.Option(help="How many seeds; more than one gives intervals over seeds.")] = DEFAULTS.seeds,
    tune_lr: Annotated[bool, typer.Option("--tune-lr", help="Try three learning rates per memory on a split of its own.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the results; the same arguments resume there.")] = DEFAULTS.out,
) -> None:
    """Which memory suits your text? Trains a small model per memory, all else equal, and reports."""
    from ttr.experiments.compare import compare

    names = tuple(name.strip() for name in layers.split(",") if name.strip())
    compare(CompareSettings(files=tuple(files or ()), layers=names, memory=memory, out=out, steps=steps, width=width, context=context, batch=batch,
                            seed=seed, seeds=seeds, tune_lr=tune_lr), console)


@app.command("list")
def list_command(combinations: Annotated[bool, typer.Option("--combinations", help="All triples of the examples.")] = False) -> None:
    """The named layers, or all combinations."""
    import ttr

    if combinations:
        _list_combinations()
        return
    width = max(map(len, ttr.catalogue))
    for name, entry in ttr.catalogue.items():
        console.print(f"[bold]{name:{width}s}[/]  {entry.year}  {escape(composition(entry.problem))}", highlight=False, soft_wrap=True)


def composition(problem: object) -> str:
    """The three choices in a line."""
    return " x ".join(plain(part) for part in (problem.weights, problem.function, problem.solver))


def plain(component: object) -> str:
    """The component without empty parentheses."""
    return repr(component).replace("()", "")


def _list_combinations() -> None:
    from collections import Counter

    import ttr
    from ttr.laws.rows import refused_triples, triples
    from ttr.problem import refusal

    names: dict[object, list[str]] = {}
    for name, entry in ttr.catalogue.items():
        names.setdefault(entry.problem, []).append(name)
    for problem in triples():
        known = f"  [bold]{', '.join(names[problem])}[/]" if problem in names else ""
        console.print(f"{escape(composition(problem))}{known}", highlight=False, soft_wrap=True)
    reasons = Counter(refusal(*triple) for triple in refused_triples())
    for reason, count in reasons.most_common():
        console.print(f"[yellow]refused[/] {count:3d}  {escape(reason)}", highlight=False, soft_wrap=True)
    console.print(f"{len(triples())} combinations of the components' examples run, {reasons.total()} are refused, each with a reason. "
                  f"`ttr list` shows the {len(ttr.catalogue)} that have names; some of them have other fields than the examples.", highlight=False)


@app.command("explain")
def explain_command(name: Annotated[str, typer.Argument(help="A catalogue name, or a Python file that defines `memory`.")]) -> None:
    """What a memory is, needs, keeps and costs, and which backend runs it."""
    import ttr

    for each, entry in memories_named(name).items():
        source = f"  {entry.source} ({entry.year}), arXiv {entry.arxiv}" if getattr(entry, "source", "") else ""
        console.print(f"[bold]{each}[/]{escape(source)}", highlight=False, soft_wrap=True)
        console.print(str(ttr.explain(getattr(entry, "problem", entry))), highlight=False, soft_wrap=True, markup=False)


@app.command("verify")
def verify_command(name: Annotated[str | None, typer.Argument(help="A catalogue name, or a Python file that defines `memory`.")] = None,
                   everything: Annotated[bool, typer.Option("--all", help="Every catalogue entry.")] = False,
                   device: Annotated[str, typer.Option(help="Where to run the fast side.")] = "cpu",
                   dtype: Annotated[str, typer.Option(help="float64 or float32.")] = "float64") -> None:
    """Run the laws on this machine: the error of every backend beside its bound."""
    import torch

    import ttr
    from ttr.doctor import devices

    if (name is None) == (not everything):
        raise UserError("Name one memory (ttr list shows the names), or use --all.")
    if dtype not in ("float64", "float32"):
        raise UserError(f"The dtype {dtype!r} is not verified. Use float64 or float32.")
    if device.split(":")[0] not in devices():
        raise UserError(f"This machine has no device {device!r}. Use {' or '.join(devices())}.")
    found = dict(ttr.catalogue) if everything else memories_named(name)
    broken = sum(_verify_one(each, entry, device, getattr(torch, dtype)) for each, entry in found.items())
    console.print(f"[bold red]{broken} laws are broken.[/]" if broken else "[green]All laws are kept.[/]")
    raise typer.Exit(1 if broken else 0)


def _verify_one(name: str, entry: object, device: str, dtype: object) -> int:
    """Print the table of one memory; how many laws it breaks."""
    import ttr
    from ttr.laws.verify import describe

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(name, total=None)
        report = ttr.verify(entry, device, dtype, progress=lambda backend, law: progress.update(task, description=f"{name}: {backend}, {law}"))
    table = Table("backend", "law", "", "error, bound, where", box=None, pad_edge=False, title=f"{name} on {device}", title_justify="left")
    ran = [finding for finding in report.findings if finding.refusal is None]
    for finding in ran:
        mark = "[green]kept[/]" if finding.kept else "[bold red]BROKEN[/]"
        table.add_row(finding.backend, f"{finding.number} {finding.law}", mark, escape(describe(finding)))
    console.print(table, highlight=False)
    refused = [finding.backend for finding in report.findings if finding.refusal is not None]
    console.print(f"Not for this memory: {', '.join(refused)}. `ttr explain {name}` says why.\n" if refused else "", highlight=False)
    return sum(not finding.kept for finding in ran)


@app.command("doctor")
def doctor_command() -> None:
    """What this machine offers, and every backend against the oracle on it."""
    from ttr.doctor import examine

    wrong = 0
    for finding in examine():
        mark = f"[{STYLES[finding.mark]}]{finding.mark:5s}[/]"
        console.print(f"{mark} {escape(f'{finding.subject:32s} {finding.words}')}", highlight=False, soft_wrap=True)
        wrong += finding.mark == "wrong"
    raise typer.Exit(1 if wrong else 0)
