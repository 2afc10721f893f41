"""Compares memories on a text by a small byte-level language model each, at equal parameters, steps, data and
seed."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console

from ttr._version import __version__
from ttr.experiments.errors import UserError, for_the_user
from ttr.experiments.job import Job
from ttr.experiments.memories import Memory, definitions, memories
from ttr.experiments.picture import draw
from ttr.experiments.progress import Bar
from ttr.experiments.report import html, show
from ttr.experiments.results import conclusion, summarise
from ttr.experiments.settings import CompareSettings
from ttr.experiments.storage import from_json, make_folder, to_json, write
from ttr.tasks.text import Text, read_text, standard_library

REPORT = ("results.json", "comparison.png", "report.html")


def compare(settings: CompareSettings, console: Console) -> dict[str, Any]:
    """Train, measure and report; runs that an earlier call with the same settings finished are not repeated.

    Writes into ``settings.out``: settings.json, runs/ (a checkpoint and a result per run), results.json,
    comparison.png and report.html; prints progress, the table and the conclusion to ``console``.

    Returns:
        The content of results.json.

    Raises:
        UserError: for errors that the user can correct, in one sentence; finished runs are kept.
    """
    with for_the_user():
        found = memories(settings)
        text = read_text(settings.files or standard_library())
        job = Job(settings, found, text)
    about = claim(settings, text, found)
    job.check_files()
    try:
        with Bar(console, job.total_steps) as bar:
            measured = [job.measure(memory, bar) for memory in found]
    except KeyboardInterrupt:
        raise UserError(f"Stopped. The same command continues from here: {settings.command()}") from None
    figures = summarise(measured, job.unigram, job.mask, settings.resamples)
    results = {"conclusion": conclusion(figures)} | figures | about
    publish(settings, results, console)
    return results


def publish(settings: CompareSettings, results: Mapping[str, Any], console: Console) -> None:
    """Write those of results.json, comparison.png and report.html that have changed, and print the table."""
    png = draw(results)
    for name, content in zip(
        REPORT, (to_json(results), png, html(results, png).encode(errors="backslashreplace")), strict=True
    ):
        write(settings.out / name, content)
    show(results, console)
    console.print(
        "Written:",
        *(str(settings.out / name) for name in REPORT),
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def claim(settings: CompareSettings, text: Text, found: Sequence[Memory]) -> dict[str, Any]:
    """Create the folder and its settings.json, or check that they belong to this comparison.

    Returns:
        The content of settings.json: command, settings, definitions, text, versions (those of the first
            call).

    Raises:
        UserError: if the folder cannot be written, holds another comparison, or its settings.json is damaged.
    """
    make_folder(settings.out / "runs")
    path = settings.out / "settings.json"
    foreign = [name for name in REPORT if (settings.out / name).exists()] + ["runs"] * any(
        (settings.out / "runs").iterdir()
    )
    if foreign and not path.exists():
        raise UserError(
            f"{settings.out} holds {', '.join(foreign)} but no settings.json that they belong to. Choose "
            "another folder with --out."
        )
    about = {
        "command": settings.command(),
        "settings": settings.to_dict(),
        "definitions": definitions(found),
        "text": {"bytes": len(text.content), "sha256": text.sha256, "files": list(text.names)},
        "versions": {"ttr": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    if not path.exists():
        write(path, to_json(about))
        return about
    try:
        held = from_json(path.read_bytes())
        before = {key: held[key] for key in about}
        if any(type(before[key]) is not type(value) for key, value in about.items()):
            raise TypeError
        differ = [key for key in ("settings", "text") for key in _differences(before[key], about[key])]
        differ += [
            f"the definition of {name}"
            for name in _differences(before["definitions"], about["definitions"])
            if not differ
        ]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{path} is damaged. Restore it, or choose another folder with --out; nothing was overwritten."
        ) from None
    if differ:
        raise UserError(
            f"{settings.out} holds a comparison with other arguments ({', '.join(differ)} "
            "changed). "
            "Give the same arguments to continue it, or another folder with --out."
        )
    return before


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names of the entries that differ."""
    return [key for key in now if before.get(key) != now[key]]
