"""Which memories recall: each is trained on planted key-value records, whose repeated values an exact memory
predicts with certainty and nothing else can, and judged on records it has not seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Int, UInt8
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ttr.experiments.cells import Cell, Compute, Report, Result, run, versions
from ttr.experiments.errors import UserError, for_the_user
from ttr.experiments.evaluation import bits_and_hits, memory_bytes
from ttr.experiments.memories import Memory, build, definitions, equal_widths, memories, parameters
from ttr.experiments.picture import readable
from ttr.experiments.progress import Bar
from ttr.experiments.records_picture import draw
from ttr.experiments.settings import LAYERS, CompareSettings, Recipe
from ttr.experiments.storage import make_folder, to_json, write
from ttr.experiments.training import loss_on, reporting, train
from ttr.experiments.workers import workers
from ttr.tasks.records import CHANCE_BITS, RecordSettings, RecordWindows, records
from ttr.tasks.tokens import byte_tokens

TRAIN = "ttr.experiments.records_probe:train_and_recall"

JUDGED, TUNING = 0, 1
"""Seeds of the windows that models are judged on, and that their learning rates are chosen on."""


@dataclass(frozen=True)
class RecordsRecipe(Recipe):
    """How a model is built, trained on records, and judged.

    Every step draws one of the numbers of ``pairs_trained`` for all its windows. The smallest are the
    curriculum: without 1 and 2 gated DeltaNet stayed at chance in the pilots, which
    docs/results/planted-records.md reports. ``judged_windows`` are drawn for every number of
    ``pairs_judged``.
    """

    steps: int = 600
    pairs_trained: tuple[int, ...] = (1, 2, 4, 8, 16, 24)
    pairs_judged: tuple[int, ...] = (4, 8, 16, 24)
    key_length: int = 1
    value_length: int = 1
    distance: int = 0
    judged_windows: int = 64

    def records(self, pairs: int) -> RecordSettings:
        """Windows with so many pairs."""
        return RecordSettings(pairs, self.key_length, self.value_length, self.distance, self.context)

    def recipe(self) -> dict[str, Any]:
        """The fields of ``RecordsRecipe``, JSON-ready."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(RecordsRecipe)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@dataclass(frozen=True)
class ProbeSettings(RecordsRecipe):
    """What to probe, and the recipe; equal settings give equal results.

    Each memory gets the one of ``learning_rates`` that is best from ``tuning_seed``, on windows of its own;
    then it is trained from ``seeds`` seeds. All of it is repeated with heads of ``further_head_sizes``, which
    at the same width make states larger or smaller. ``memory`` is a Python file that defines ``memory`` or
    ``memories``; it is executed. ``jobs`` processes of one thread each do the work, or the Ray cluster at the
    address ``ray``, without influence on the results.

    Raises:
        UserError: if the records do not fit into a window, heads do not fit into the width, or a number is
            too small.
    """

    layers: tuple[str, ...] = LAYERS
    further_head_sizes: tuple[int, ...] = ()
    memory: Path | None = None
    out: Path = Path("runs/recall")
    jobs: int = 1
    ray: str | None = None
    seed: int = 0
    seeds: int = 3
    learning_rates: tuple[float, ...] = (8e-3, 1.6e-2)
    tuning_seed: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "judged_windows", "seeds", "jobs"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for size in self.head_sizes:
            if size < 1 or self.width % size:
                raise UserError(f"Heads of {size} do not fit into a width of {self.width}. Choose a divisor.")
        if self.tuning_seed in self.all_seeds:
            raise UserError(f"Seed {self.tuning_seed} chooses the learning rates. Judge other seeds.")
        with for_the_user():
            for pairs in (*self.pairs_trained, *self.pairs_judged):
                self.records(pairs)

    @property
    def all_seeds(self) -> tuple[int, ...]:
        return tuple(range(self.seed, self.seed + self.seeds))

    @property
    def head_sizes(self) -> tuple[int, ...]:
        return (self.head_size, *self.further_head_sizes)


def probe(settings: ProbeSettings, console: Console) -> dict[str, Any]:
    """Train, judge and report; models that an earlier call with the same settings trained are kept.

    Writes into ``settings.out``: cells/ (a file per model), results.json and records.png; prints progress and
    a table to ``console``.

    Returns:
        The content of results.json.

    Raises:
        UserError: for errors that the user can correct, in one sentence; finished models are kept.
    """
    make_folder(settings.out / "cells")
    found = with_state(settings)
    try:
        with Bar(console) as bar:
            with workers(settings.jobs, settings.ray, settings.memory) as compute:
                figures, *others = (
                    _figures(dataclasses.replace(settings, head_size=size), found, compute, bar)
                    for size in settings.head_sizes
                )
    except KeyboardInterrupt:
        raise UserError("Stopped. The same command continues from here.") from None
    for name, row in figures.items():
        row["other_head_sizes"] = [other[name] for other in others]
    results = {
        "chance_bits": CHANCE_BITS,
        "recipe": settings.recipe(),
        "learning_rates": list(settings.learning_rates),
        "tuning_seed": settings.tuning_seed,
        "seeds": list(settings.all_seeds),
        "memories": figures,
        "definitions": definitions(found),
        "versions": versions(),
    }
    write(settings.out / "results.json", to_json(results))
    write(settings.out / "records.png", draw(results))
    show(results, console)
    return results


def with_state(settings: ProbeSettings) -> list[Memory]:
    """The memories of the settings, without the plain transformer of a comparison, which has no state.

    Raises:
        UserError: if a name is unknown or given twice, or the user's file cannot be used.
    """
    s = settings
    named = CompareSettings(
        layers=s.layers, memory=s.memory, width=s.width, depth=s.depth, head_size=s.head_size
    )
    return [memory for memory in memories(named) if memory.layers]


def _figures(
    settings: ProbeSettings, found: Sequence[Memory], compute: Compute, bar: Bar
) -> dict[str, dict[str, Any]]:
    """What every memory recalls, by name, at the rate with the fewest bits on the tuning windows."""
    rates, widths = settings.learning_rates, equal_widths(found, settings)
    heads = f", heads of {settings.head_size}" if settings.further_head_sizes else ""

    def computed(stage: str, seeds_and_rates: list[list[tuple[int, float]]]) -> list[list[Result]]:
        cells = [
            Cell(
                TRAIN,
                {"recipe": settings.recipe(), "memory": dataclasses.asdict(memory)}
                | {"mlp_width": widths[memory.name], "seed": seed, "rate": rate},
                f"{memory.label}.heads{settings.head_size}.seed{seed}.rate{rate:g}",
                settings.steps,
            )
            for memory, runs in zip(found, seeds_and_rates, strict=True)
            for seed, rate in runs
        ]
        bar.begin(stage + heads, sum(cell.steps for cell in cells))
        results = iter(run(cells, settings.out / "cells", compute, bar.report))
        return [[next(results) for _ in runs] for runs in seeds_and_rates]

    best = [rates[0]] * len(found)
    if len(rates) > 1:
        tried = computed("learning rates", [[(settings.tuning_seed, rate) for rate in rates]] * len(found))
        best = [
            min(results, key=lambda result: result[1]["tuning_bits"])[1]["learning_rate"] for results in tried
        ]
    measured = computed("seeds", [[(seed, rate) for seed in settings.all_seeds] for rate in best])
    return {memory.name: figures_of(settings, results) for memory, results in zip(found, measured)}


def train_and_recall(arguments: dict[str, Any], folder: Path, checkpoint: Path, report: Report) -> Result:
    """Train one memory from one seed at one rate on records that are new in every window, and judge it.

    Returns:
        "bits.P" and "hits.P" [W,T] of every byte of the judged windows with P pairs. The parameters, the
        loss of every step in bits per byte, the mean bits of values repeated for the first time in tuning
        windows, the bytes of state, and the step at which it diverged, if it did.
    """
    settings = RecordsRecipe.of(arguments["recipe"])
    memory, seed, rate = Memory(**arguments["memory"]), arguments["seed"], arguments["rate"]
    model = build(memory, settings, arguments["mlp_width"], seed).to(settings.device)
    on_step = reporting(report, memory.name, settings.steps, f"seed {seed}, rate {rate:g}")
    content, starts = training_records(settings, seed)
    loss_of = loss_on(model, byte_tokens(content), starts, settings)
    history = train(model, loss_of, settings.steps, rate, settings, checkpoint, dict(arguments), on_step)
    undone = settings.steps - len(history.loss)  # by a run that diverged
    report(memory.name, undone, "measuring")
    tensors, tuning = {}, []
    for pairs in settings.pairs_judged:
        judged, tuned = (_drawn(settings, pairs, seed) for seed in (JUDGED, TUNING))
        tensors[f"bits.{pairs}"], tensors[f"hits.{pairs}"] = bits_and_hits(
            model, judged.windows, settings.batch
        )
        tuning.append(bits_and_hits(model, tuned.windows, settings.batch)[0][tuned.stated == 1].mean().item())
    facts = {
        "learning_rate": rate,
        "seed": seed,
        "parameters": parameters(model),
        "diverged_at": history.diverged_at,
        "loss": history.loss,
        "tuning_bits": fmean(tuning),
        "state_bytes": memory_bytes(model, judged.windows[:1, :-1]),
    }
    return tensors, facts


def training_records(
    settings: RecordsRecipe, seed: int
) -> tuple[UInt8[Tensor, " N"], Int[Tensor, "steps batch"]]:
    """A text made of one new window of records after the other, and where those of every step begin."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(settings.pairs_trained), (settings.steps,), generator=generator)
    seeds = torch.randint(2**62, (settings.steps,), generator=generator)
    drawn = [
        records(settings.records(settings.pairs_trained[which]), settings.batch, seed).windows
        for which, seed in zip(chosen.tolist(), seeds.tolist())
    ]
    content = torch.stack(drawn).to(torch.uint8)
    starts = torch.arange(settings.steps * settings.batch) * (settings.context + 1)
    return content.flatten(), starts.view(settings.steps, settings.batch)


def _drawn(settings: RecordsRecipe, pairs: int, seed: int) -> RecordWindows:
    return records(settings.records(pairs), settings.judged_windows, seed)


def figures_of(settings: RecordsRecipe, results: Sequence[Result]) -> dict[str, Any]:
    """What one memory recalled, JSON-ready: by number of pairs, the values of all seeds in their order.

    "gain" is chance minus the bits of a value's byte where a record is repeated for the first time, and
    "accuracy" how often the most likely byte is right there; "gain_when_repeated_again" is about all later
    repetitions (None if the window has none), and "bits_of_new_values" about values that nobody can know,
    which are at chance or above."""
    by_pairs = {}
    for pairs in settings.pairs_judged:
        stated = _drawn(settings, pairs, JUDGED).stated
        bits = [tensors[f"bits.{pairs}"].double() for tensors, _ in results]
        hits = [tensors[f"hits.{pairs}"].double() for tensors, _ in results]
        again = [CHANCE_BITS - each[stated > 1].mean().item() for each in bits]
        by_pairs[str(pairs)] = {
            "gain": [CHANCE_BITS - each[stated == 1].mean().item() for each in bits],
            "accuracy": [each[stated == 1].mean().item() for each in hits],
            "gain_when_repeated_again": again if (stated > 1).any() else None,
            "bits_of_new_values": [each[stated == 0].mean().item() for each in bits],
        }
    facts = results[0][1]
    return {
        "head_size": settings.head_size,
        "learning_rate": facts["learning_rate"],
        "parameters": facts["parameters"],
        "state_bytes": facts["state_bytes"],
        "diverged_at": [facts["diverged_at"] for _, facts in results],
        "pairs": by_pairs,
    }


def show(results: Mapping[str, Any], console: Console) -> None:
    """The gains as a table, the best mean on top."""
    judged = results["recipe"]["pairs_judged"]
    table = Table(
        title=f"Gain in bits per repeated value byte, of {results['chance_bits']:.2f} possible: mean of "
        f"{len(results['seeds'])} seeds, lowest to highest"
    )
    table.add_column("memory", overflow="fold")
    for column in ("state", *(f"{pairs} pairs" for pairs in judged)):
        table.add_column(column)
    rows = results["memories"].items()
    for name, row in sorted(rows, key=lambda item: -_mean_gain(item[1])):
        for size in (row, *row["other_head_sizes"]):
            gains = [size["pairs"][str(pairs)]["gain"] for pairs in judged]
            cells = (f"{fmean(each):.2f}\n{min(each):.2f} to {max(each):.2f}" for each in gains)
            heads = f", heads of {size['head_size']}" if row["other_head_sizes"] else ""
            table.add_row(name + heads, readable(size["state_bytes"]), *cells)
    console.print(table)


def _mean_gain(row: Mapping[str, Any]) -> float:
    return fmean(fmean(each["gain"]) for each in row["pairs"].values())
