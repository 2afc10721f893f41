"""Writes what a comparison found as files that others can read: results.json, results.csv, a picture, a page,
and the trained models."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Integer
from rich.console import Console
from torch import Tensor

from ttr.experiments.cells import Result
from ttr.experiments.evaluation import per_byte
from ttr.experiments.memories import Memory
from ttr.experiments.picture import draw
from ttr.experiments.plan import REPORT
from ttr.experiments.progress import quiet
from ttr.experiments.protocol import Run, Stage
from ttr.experiments.report import html, show
from ttr.experiments.starting_point import StartingPoint
from ttr.experiments.storage import to_json, write
from ttr.experiments.training import put_tensors
from ttr.tasks.tokens import Encoding


def publish(folder: Path, results: Mapping[str, Any], runs: bytes, console: Console) -> None:
    """Write those of the files that have changed, and print the table."""
    png = draw(results)
    contents = (to_json(results), runs, png, html(results, png).encode(errors="backslashreplace"))
    for name, content in zip(REPORT, contents, strict=True):
        write(folder / name, content)
    show(results, console)
    written = [str(folder / name) for name in (*REPORT, "models")]
    console.print("Written:", *written, highlight=False, markup=False, soft_wrap=True)


def table_of_runs(stages: list[Stage], trained: Mapping[Run, Result], sizes: Integer[Tensor, "W T"]) -> bytes:
    """Every run as a line of a CSV file; ``sizes`` are the bytes of every validation token."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*COLUMNS, "bits_per_byte"])
    for number, stage in enumerate(stages, 1):
        for run in stage.runs:
            tensors, facts = trained[run]
            bits = per_byte(tensors["bits"], sizes)
            known = {"stage": number} | vars(run) | facts
            writer.writerow([*(known[column] for column in COLUMNS), bits])
    return file.getvalue().encode()


COLUMNS = (
    "stage",
    "memory",
    "seed",
    "rate",
    "steps",
    "parameters",
    "state_bytes",
    "diverged_at",
    "tuning_bits_per_byte",
)


def save_models(
    folder: Path, start: StartingPoint, kept: Sequence[tuple[Memory, Result]], encoding: Encoding
) -> None:
    """A model of every memory, each in a folder of its own that is there whole or not at all:
    ``TTRForCausalLM.from_pretrained`` opens it, or of a pretrained model with memories
    ``ttr.integrations.transformers.from_pretrained`` (and ``AutoTokenizer``, if there is a tokenizer)."""
    for memory, (tensors, _) in kept:
        place = folder / memory.label
        if place.exists():
            continue
        model, prefix = start.build(memory, 0), "model."
        put_tensors({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}, model)
        part = place.with_name(f".{memory.label}.{os.getpid()}.part")
        with quiet():
            start.save(model, encoding, part)
        try:
            part.rename(place)
        except OSError:  # another run of the same comparison was faster
            shutil.rmtree(part)
