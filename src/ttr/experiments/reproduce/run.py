"""Runs experiments and writes what they found."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ttr.experiments import cells
from ttr.experiments.bench import machine
from ttr.experiments.cells import Cell, Compute, Result
from ttr.experiments.errors import UserError
from ttr.experiments.picture import png
from ttr.experiments.progress import Bar
from ttr.experiments.reproduce.claims import EXPERIMENTS
from ttr.experiments.reproduce.experiment import SCALES, Experiment, verdicts
from ttr.experiments.reproduce.pages import page_of, report, show, table_of_claims
from ttr.experiments.storage import from_json, make_folder, to_json, write
from ttr.experiments.workers import workers


@dataclass(frozen=True)
class ReproduceSettings:
    """What to run, how large, and where; ``jobs`` processes or the Ray cluster at ``ray`` do the work,
    without influence on the results.

    Raises:
        UserError: if there is no such experiment or scale.
    """

    names: tuple[str, ...]
    scale: str = "laptop"
    out: Path = Path("runs/reproduce")
    jobs: int = 1
    ray: str | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in EXPERIMENTS]
        if unknown or not self.names:
            what = f"There is no experiment {unknown[0]!r}." if unknown else "Name an experiment, or --all."
            raise UserError(f"{what} There are {', '.join(EXPERIMENTS)}.")
        if self.scale not in SCALES:
            raise UserError(f"--scale takes {', '.join(SCALES)}, not {self.scale!r}.")


def reproduce(settings: ReproduceSettings, console: Console) -> bool:
    """Run each experiment; cells that an earlier call computed are not computed again.

    Writes into ``settings.out``: cells/ (a file per cell); by experiment a folder with results.json,
    figure.png and its page README.md; and README.md and report.html, about all claims that the folder has
    results for.

    Returns:
        Whether all bands were met that the scale is large enough to judge.

    Raises:
        UserError: for errors that the user can correct; finished cells are kept.
    """
    make_folder(settings.out / "cells")
    met = []
    try:
        with Bar(console) as bar, workers(settings.jobs, settings.ray) as compute:
            for name in settings.names:
                record = _record(EXPERIMENTS[name], settings, compute, bar)
                met.append(record["met"] is not False)
                bar.say(show(record))
    except KeyboardInterrupt:
        raise UserError("Stopped. The same command continues from here.") from None
    found = records(settings.out)
    pictures = {name: (settings.out / name / "figure.png").read_bytes() for name in found}
    write(settings.out / "README.md", table_of_claims(found).encode())
    write(settings.out / "report.html", report(EXPERIMENTS, found, pictures).encode())
    written = [str(settings.out / name) for name in ("README.md", "report.html")]
    console.print("Written:", *written, highlight=False, markup=False, soft_wrap=True)
    return all(met)


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """The results of all experiments that a folder holds, by name."""
    found = {name: folder / name / "results.json" for name in EXPERIMENTS}
    return {name: from_json(path.read_bytes()) for name, path in found.items() if path.exists()}


def _record(
    experiment: Experiment, settings: ReproduceSettings, compute: Compute, bar: Bar
) -> dict[str, Any]:
    """Run an experiment and write its folder; the content of its results.json."""
    began, folder, fresh = time.monotonic(), settings.out / experiment.name, False

    def run(wanted: Sequence[Cell]) -> list[Result]:
        nonlocal fresh
        fresh |= not all(cell.file(settings.out / "cells").exists() for cell in wanted)
        bar.begin(experiment.name, sum(cell.steps for cell in wanted))
        return cells.run(wanted, settings.out / "cells", compute, bar.report)

    measured = experiment.measure(settings.scale, run)
    before = records(settings.out).get(experiment.name)
    same = before is not None and not fresh and before["scale"] == settings.scale
    bands = verdicts(experiment, experiment.figures(measured), settings.scale)
    record = {
        "name": experiment.name,
        "title": experiment.title,
        "claim": experiment.claim,
        "scale": settings.scale,
        "met": None if None in [band["met"] for band in bands] else all(band["met"] for band in bands),
        "bands": bands,
        "seconds": before["seconds"] if same else round(time.monotonic() - began, 1),
        "jobs": before["jobs"] if same else settings.jobs,
        "measured": measured,
        "versions": cells.versions(),
        "machine": machine.facts(),
    }
    make_folder(folder)
    write(folder / "figure.png", png(experiment.draw(measured)))
    write(folder / "results.json", to_json(record))
    write(folder / "README.md", page_of(experiment, record).encode())
    return record
