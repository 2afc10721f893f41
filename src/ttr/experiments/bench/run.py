"""``ttr bench``: runs the cases one after the other and saves each when it is finished."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import ttr
from ttr.experiments.bench import entries, figures, models, report
from ttr.experiments.bench.cases import Case, cases
from ttr.experiments.bench.contestants import engines_named
from ttr.experiments.bench.families import FAMILIES
from ttr.experiments.bench.peak import PeakMemory
from ttr.experiments.bench.results import Results
from ttr.experiments.bench.rounds import Clock, SystemClock
from ttr.experiments.bench.settings import BenchSettings
from ttr.experiments.bench.trial import Trial
from ttr.experiments.errors import UserError, for_the_user
from ttr.experiments.storage import write


def chosen(settings: BenchSettings, known: Sequence[Case]) -> tuple[Case, ...]:
    """The cases whose names equal or begin with those of the settings; all if the settings name none.

    Raises:
        UserError: if a name matches no case.
    """

    def fits(case: Case, name: str) -> bool:
        return f"{case.name}.".startswith(f"{name.rstrip('.')}.")

    for name in settings.cases:
        if not any(fits(case, name) for case in known):
            raise UserError(
                f"There is no case {name!r}. ttr bench --list shows the cases; a prefix such as "
                f"{known[0].family.name} selects several."
            )
    found = tuple(
        case
        for case in known
        if (
            any(fits(case, name) for name in settings.cases) if settings.cases else not case.family.on_request
        )
    )
    return tuple(case for case in found if case.shape.time <= QUICK_TIME) if settings.quick else found


QUICK_TIME = 512
"""Tokens of the longest sequence of ``--quick``."""


def bench(settings: BenchSettings, console: Console, clock: Clock | None = None) -> dict[str, Any]:
    """Time the cases of the settings, print each when it is finished, and write ``settings.out``/bench.json.

    Returns:
        The content of the file.

    Raises:
        UserError: for errors that the user can correct; finished cases are kept.
    """
    if settings.onednn:
        _check_onednn()
    with for_the_user():
        engines_named(settings.engines)
        todo = chosen(settings, cases(FAMILIES, settings.lengths))
        results = Results(settings)
        try:
            _run(todo, settings, results, console, clock or SystemClock())
        except KeyboardInterrupt:
            raise UserError(f"Stopped. The same command continues from here: {settings.command()}") from None
    pictures = {
        settings.out / f"{curve}.png": figures.draw(curve, own, results.held["machine"])
        for curve, own in figures.curves(results.cases).items()
    }
    pages = {
        settings.out / f"{name}.md": words.encode()
        for name, made in (("models", models.page), ("catalogue", entries.page))
        if (words := made(results.cases, results.held["machine"]))
    }
    for path, content in (pictures | pages).items():
        write(path, content)
    written = map(str, (results.path, *pictures, *pages))
    console.print("Written:", *written, highlight=False, markup=False, soft_wrap=True)
    return results.held


def _check_onednn() -> None:
    """Raise a UserError if float32 products cannot go through oneDNN."""
    try:
        with ttr.onednn():
            pass
    except RuntimeError as error:
        raise UserError(f"{error} Leave out --onednn.") from None


def _run(
    todo: Sequence[Case], settings: BenchSettings, results: Results, console: Console, clock: Clock
) -> None:
    """Run every unfinished case, with a status line."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with (
        Progress(*columns, console=console, transient=True, expand=True) as progress,
        PeakMemory() if settings.memory else contextlib.nullcontext() as peaks,
    ):
        task = progress.add_task("", total=len(todo))
        trial = Trial(settings, clock, peaks, lambda what: progress.update(task, description=what))
        for case in todo:
            finished = results.finished(case.name)
            if finished is None:
                finished = trial.run(case)
                results.add(finished)
            else:
                trial.remember(finished)
            report.show(finished, console)
            progress.advance(task)


def wrong(held: dict[str, Any]) -> list[str]:
    """The rows of a benchmark that are errors: failed laws and disagreeing contestants."""
    return [
        f"{case['name']}, {row['name']}"
        for case in held["cases"]
        for row in case["rows"]
        if row["status"] in ("refused", "wrong")
    ]


def list_cases(settings: BenchSettings, console: Console) -> None:
    """Print the cases of the settings and their contestants."""
    with for_the_user():
        known = cases(FAMILIES, settings.lengths)
        todo = chosen(settings, known) if settings.cases else known
        report.listing(
            todo, {case.name: case.contestants(settings.engines, settings.onednn) for case in todo}, console
        )
