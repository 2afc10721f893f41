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


def memory_named(name: str):
    """The Problem or Architecture of a catalogue name, or of a Python file that defines ``memory``."""
    import ttr
    from ttr.experiments.user_file import load_memories

    if name.endswith(".py"):
        return next(iter(load_memories(Path(name)).values()))
    try:
        return ttr.catalogue[name]
    except KeyError as error:
        raise UserError(error.args[0]) from None


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
    for name, entry in ttr.catalogue.items():
        choices, source = escape(composition(entry.problem)), f"{entry.year}, arXiv {entry.arxiv}"
        console.print(f"[bold]{name:26s}[/] {choices:58s} {source}", highlight=False, soft_wrap=True)


def composition(problem: object) -> str:
    """The three choices in a line."""
    return " x ".join(plain(part) for part in (problem.weights, problem.function, problem.solver))


def plain(component: object) -> str:
    """The component without empty parentheses."""
    return repr(component).replace("()", "")


def _list_combinations() -> None:
    import ttr
    from ttr.laws.rows import refused_triples, triples
    from ttr.problem import refusal

    names = {entry.problem: name for name, entry in ttr.catalogue.items()}
    for problem in triples():
        console.print(f"[green]runs[/]     {names.get(problem, ''):28s} {composition(problem)}", highlight=False)
    for triple in refused_triples():
        console.print(f"[yellow]refused[/]  {' x '.join(map(plain, triple))}: {refusal(*triple)}", highlight=False, soft_wrap=True)
    console.print(f"{len(triples())} combinations run, {len(refused_triples())} are refused, {len(names)} have names.")


@app.command("explain")
def explain_command(name: Annotated[str, typer.Argument(help="A catalogue name, or a Python file that defines `memory`.")]) -> None:
    """What a memory is, needs, keeps and costs, and which backend runs it."""
    import ttr

    entry = memory_named(name)
    if hasattr(entry, "source"):
        console.print(f"[bold]{name}[/]  {entry.source} ({entry.year}), arXiv {entry.arxiv}", highlight=False)
    console.print(str(ttr.explain(getattr(entry, "problem", entry))), highlight=False, soft_wrap=True, markup=False)


@app.command("verify")
def verify_command(name: Annotated[str | None, typer.Argument(help="A catalogue name, or a Python file that defines `memory`.")] = None,
                   everything: Annotated[bool, typer.Option("--all", help="Every catalogue entry.")] = False,
                   device: Annotated[str, typer.Option(help="Where to run the fast side.")] = "cpu",
                   dtype: Annotated[str, typer.Option(help="float64 or float32.")] = "float64") -> None:
    """Run the laws on this machine: the error of every backend beside its bound."""
    import torch

    import ttr
    from ttr.laws.verify import describe

    if (name is None) == (not everything):
        raise UserError("Name one memory (ttr list shows the names), or use --all.")
    if dtype not in ("float64", "float32"):
        raise UserError(f"The dtype {dtype!r} is not verified. Use float64 or float32.")
    broken = 0
    for each in ttr.catalogue if everything else [name]:
        entry = memory_named(each)
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task(each, total=None)

            def tell(backend: str, law: str) -> None:
                progress.update(task, description=f"{each}: {backend}, {law}")

            report = ttr.verify(entry, device, getattr(torch, dtype), progress=tell)
        table = Table("backend", "law", "", "", box=None, pad_edge=False, title=f"{each} on {device} in {dtype}", title_justify="left")
        for finding in report.findings:
            law = f"{finding.number} {finding.law}" if finding.refusal is None else ""
            mark = "[dim]refuses[/]" if finding.refusal else "[green]kept[/]" if finding.kept else "[bold red]BROKEN[/]"
            table.add_row(finding.backend, law, mark, finding.refusal or describe(finding))
        console.print(table, highlight=False)
        broken += sum(not finding.kept for finding in report.findings)
    console.print(f"[bold red]{broken} laws are broken.[/]" if broken else "[green]All laws are kept.[/]")
    raise typer.Exit(1 if broken else 0)


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
