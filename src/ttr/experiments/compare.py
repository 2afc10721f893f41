"""Compares memories on a text by a small byte-level language model each, at equal parameters, steps, data and
seed."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from ttr._version import __version__
from ttr.experiments.cells import Cell, Compute, Result, run
from ttr.experiments.errors import UserError, for_the_user
from ttr.experiments.language_model import Windows
from ttr.experiments.memories import Memory, definitions, equal_widths, memories
from ttr.experiments.picture import draw
from ttr.experiments.progress import Bar
from ttr.experiments.references import Reference
from ttr.experiments.report import html, show
from ttr.experiments.results import Measured, conclusion, summarise
from ttr.experiments.settings import CompareSettings
from ttr.experiments.speed import speeds
from ttr.experiments.storage import from_json, load_tensors, make_folder, save_tensors, to_json, write
from ttr.experiments.workers import workers
from ttr.tasks.text import Text, distant_slice, read_text, recall_slice, standard_library

TRAIN, COUNT = (f"ttr.experiments.language_model:{name}" for name in ("train_and_judge", "count_ngrams"))
REPORT = ("results.json", "comparison.png", "report.html")


def compare(settings: CompareSettings, console: Console) -> dict[str, Any]:
    """Train, measure and report; runs that an earlier call with the same settings finished are not repeated.

    Writes into ``settings.out``: settings.json, cells/ (the text, and a file per cell), speeds.safetensors,
    results.json, comparison.png and report.html; prints progress, the table and the conclusion to
    ``console``.

    Returns:
        The content of results.json.

    Raises:
        UserError: for errors that the user can correct, in one sentence; finished runs are kept.
    """
    with for_the_user():
        found = memories(settings)
        text = read_text(settings.files or standard_library())
        windows = Windows(text, settings)
        mask = _slice(windows, settings)
    about = claim(settings, text, found)
    write(settings.out / "cells" / "inputs" / text.sha256, text.content.numpy().tobytes())
    widths = equal_widths(found, settings)
    total = settings.steps * len(found) * (len(settings.rates) + settings.seeds - 1)
    try:
        with Bar(console, total) as bar:
            with workers(settings.jobs, settings.ray, settings.memory) as compute:
                measured, counted = _results(settings, found, widths, text.sha256, compute, bar)
            fast = _speeds(settings, found, widths, windows, bar)
    except KeyboardInterrupt:
        raise UserError(f"Stopped. The same command continues from here: {settings.command()}") from None
    distant = distant_slice(windows.validation, settings.ngram)
    figures = summarise(measured, counted, fast, mask, distant, settings.resamples)
    results = {"conclusion": conclusion(figures)} | figures | about
    publish(settings, results, console)
    return results


def _slice(windows: Windows, settings: CompareSettings) -> Tensor:
    """The recall slice.

    Raises:
        ValueError: if it is empty.
    """
    mask = recall_slice(windows.validation, settings.ngram)
    if not mask.any():
        raise ValueError(
            f"No window of {settings.context} bytes repeats {settings.ngram} bytes, so there is nothing to "
            "recall. Use a larger --context or more text."
        )
    return mask


def _results(
    settings: CompareSettings,
    found: Sequence[Memory],
    widths: Mapping[str, int],
    text: str,
    compute: Compute,
    bar: Bar,
) -> tuple[list[Measured], tuple[Reference, ...]]:
    """Every memory at the rate that is best on the tuning windows, from all seeds; and the references. The
    first seed tries all rates; the others follow at the best."""
    folder, common = settings.out / "cells", {"text": text, "recipe": settings.recipe()}
    first, *others = settings.all_seeds

    def trained(memory: Memory, seed: int, rate: float) -> Cell:
        arguments = common | {"memory": dataclasses.asdict(memory), "mlp_width": widths[memory.name]}
        label = f"{memory.name}.seed{seed}.rate{rate}"
        return Cell(TRAIN, arguments | {"seed": seed, "rate": rate}, label, settings.steps, (text,))

    def computed(cells: list[Cell]) -> list[Result]:
        return run(cells, folder, compute, bar.report)

    counting = Cell(COUNT, common | {"seed": first}, "n-grams", 0, (text,))
    tried = [trained(memory, first, rate) for memory in found for rate in settings.rates]
    (tensors, facts), *results = computed([counting, *tried])
    each = len(settings.rates)
    best = [
        min(results[i * each : (i + 1) * each], key=lambda result: result[1]["tuning_bits_per_byte"])
        for i in range(len(found))
    ]
    rest = [
        trained(memory, seed, facts["learning_rate"])
        for memory, (_, facts) in zip(found, best)
        for seed in others
    ]
    rest = computed(rest)
    measured = []
    for i, memory in enumerate(found):
        runs = [best[i], *rest[i * len(others) : (i + 1) * len(others)]]
        bits, replaced = (
            torch.stack([tensors[name] for tensors, _ in runs]) for name in ("bits", "replaced")
        )
        measured.append(Measured(memory.name, bits, replaced, [facts for _, facts in runs]))
    counted = tuple(
        Reference(name, tensors[f"bits.{i}"], tensors[f"replaced.{i}"])
        for i, name in enumerate(facts["names"])
    )
    return measured, counted


def _speeds(
    settings: CompareSettings, found: Sequence[Memory], widths: Mapping[str, int], windows: Windows, bar: Bar
) -> dict[str, Any]:
    """The speeds, measured once per folder."""
    path = settings.out / "speeds.safetensors"
    if not path.exists():
        bar.report("speeds", 0, "all memories in turn")
        save_tensors(path, {}, speeds(found, settings, widths, windows.validation))
    return load_tensors(path)[1]


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
    make_folder(settings.out / "cells" / "inputs")
    path = settings.out / "settings.json"
    foreign = [name for name in REPORT if (settings.out / name).exists()] + ["cells"] * any(
        (settings.out / "cells" / "inputs").iterdir()
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
