"""Compares memories on a text by a small language model each, at equal parameters, data and
seeds."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from jaxtyping import Int
from rich.console import Console
from torch import Tensor

from ttr.experiments.bench import machine
from ttr.experiments.budget import Budgets
from ttr.experiments.cells import Cell, Compute, Result, run
from ttr.experiments.errors import UserError, for_the_user
from ttr.experiments.evaluation import per_byte
from ttr.experiments.language_model import PROMPT, Windows
from ttr.experiments.memories import Memory, definitions
from ttr.experiments.plan import Plan
from ttr.experiments.progress import Bar
from ttr.experiments.protocol import FULL, Clock, Run, Stage, at_the_edge, next_stage
from ttr.experiments.publish import publish, save_models, table_of_runs
from ttr.experiments.references import Reference
from ttr.experiments.results import Measured, Slices, by_position, summarise, undecided
from ttr.experiments.settings import CompareSettings
from ttr.experiments.speed import seconds_per_step, speeds
from ttr.experiments.starting_point import distillation_steps, starting_point
from ttr.experiments.storage import load_tensors, save_tensors, write
from ttr.experiments.tracking import check_installed, track
from ttr.experiments.verdict import conclusion
from ttr.experiments.workers import workers
from ttr.tasks.text import cautions, read_text, standard_library
from ttr.tasks.tokens import encoding

TRAIN, COUNT = (f"ttr.experiments.language_model:{name}" for name in ("train_and_judge", "count_ngrams"))
EXAMPLES = 3
"""Hardest and easiest windows that are shown."""
AT_THE_END, MOST_AT_THE_END = 0.07, 30.0
"""The share of the time that is kept for speeds, figures and report, and the most seconds."""


def compare(settings: CompareSettings, console: Console, replayed: Plan | None = None) -> dict[str, Any]:
    """Train, measure and report; runs that an earlier call with the same settings finished are not repeated.

    Writes into ``settings.out``: plan.json, cells/ (the text, and a file per cell), speeds.safetensors, and
    what ``publish`` makes of them; prints progress, the table and the conclusion to ``console``. With
    ``replayed`` the stages are those of that plan, whatever the clock says.

    Returns:
        The content of results.json.

    Raises:
        UserError: for errors that the user can correct, in one sentence; finished runs are kept.
    """
    comparison = Comparison(settings, replayed)
    try:
        with Bar(console) as bar:
            for sentence in comparison.cautions:
                bar.say(sentence)
            clock = comparison.clock(bar)
            with workers(settings.jobs, settings.ray, settings.memory) as compute:
                comparison.train(clock, compute, bar)
            results = comparison.results(bar)
    except KeyboardInterrupt:
        raise UserError(f"Stopped. The same command continues from here: {settings.command()}") from None
    save_models(settings.out / "models", comparison.start, comparison.kept, comparison.encoding)
    runs = table_of_runs(comparison.plan.stages, comparison.trained, comparison.slices.sizes)
    publish(settings.out, results, runs, console)
    return results


class Comparison:
    """A comparison that goes on in its folder.

    Attributes:
        plan: what is trained, stage by stage.
        trained: the results of the runs so far.
    """

    def __init__(self, settings: CompareSettings, replayed: Plan | None) -> None:
        self.began = monotonic()
        self.settings = settings
        if settings.track is not None:
            check_installed(settings.track)
        with for_the_user():
            self.start = starting_point(settings)
            self.memories = self.start.memories(settings)
            self.text = read_text(settings.files or standard_library())
            self.encoding = encoding(settings.tokenizer_file)
            self.tokens = self.encoding.tokens(self.text)
            self.windows = Windows(self.tokens, settings, self.encoding.unit)
            self.slices = Slices.of(self.windows.validation, settings.looked_up, self.encoding.unit)
            self.start.fit(self.memories, self.tokens.vocabulary)
        self.cautions = cautions(self.text, self.tokens.in_bytes(self.windows.pieces))
        self.plan = Plan.claim(settings, self.text, self.encoding, definitions(self.memories), replayed)
        self.inputs = self._inputs()
        self.by_name = {memory.name: memory for memory in self.memories}
        self.trained: dict[Run, Result] = {}
        self.counted: dict[int, list[Reference]] = {}

    @property
    def cells(self) -> Path:
        return self.settings.out / "cells"

    def _inputs(self) -> dict[str, str]:
        """Put what cells read where they read it; the hashes by the names of the arguments."""
        contents = {"text": self.text.content.numpy().tobytes()} | self.encoding.files(self.tokens)
        contents |= self.start.files()
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        for name, content in contents.items():
            write(self.cells / "inputs" / hashes[name], content)
        return hashes

    @property
    def groups(self) -> list[list[Memory]]:
        """The memories in the common layer, and those in the published layers if they are asked for."""
        found = [
            [m for m in self.memories if m.layers and m.published == published] for published in (False, True)
        ]
        return [group for group in found if group]

    @property
    def kept(self) -> list[tuple[Memory, Result]]:
        """The memories with the results of the runs that are looked at more closely."""
        found = [(self.by_name[run.memory], result) for run, result in self.trained.items() if run.kept]
        return [(memory, result) for memory, result in found if memory.layers]

    # ------------------------------------------------------------------------------------------- computing
    def train(self, clock: Clock, compute: Compute, bar: Bar) -> None:
        """Compute all stages, each decided when those before it are finished."""
        number = 0
        while stage := self.plan.stage(number, lambda: self._next(clock)):
            before = monotonic()
            bar.begin(f"stage {number + 1}, {stage.title}", sum(map(self._steps, stage.runs)))
            fresh = self._compute(stage, number, clock, compute, bar)
            took = monotonic() - before
            if fresh:
                clock.took(stage, took)
            self.plan.took(number, took)
            self._track(stage, number)
            number += 1
            if number <= FULL:
                bar.say(self._first_look(stage))

    def _steps(self, run: Run) -> int:
        """The steps of a run, with those of a distillation."""
        return run.steps + distillation_steps(self.start, self.by_name[run.memory], run.steps)

    def _track(self, stage: Stage, number: int) -> None:
        if self.settings.track is None:
            return
        cells = [self._training(run, number >= FULL) for run in stage.runs]
        facts = [self.trained[run][1] for run in stage.runs]
        runs = {cell.label: (vars(run), each) for cell, run, each in zip(cells, stage.runs, facts)}
        track(self.settings.track, self.settings.out, runs)

    def clock(self, bar: Bar) -> Clock:
        """What the time allows. Nothing is timed where the clock decides nothing."""
        s, passed = self.settings, sum(filter(None, self.plan.seconds))
        self.began -= passed
        limit = None if s.steps is not None else s.time - min(AT_THE_END * s.time, MOST_AT_THE_END)
        judging = (s.tuning_windows + s.evaluation_windows) / s.batch / 3  # a step is three forward passes
        if limit is None or self.plan.complete:
            return Clock(limit, s.jobs, dict.fromkeys(self.by_name, 1.0), judging)
        bar.begin("a step of every memory, timed", 0)
        cost = seconds_per_step(self.start, self.memories, s, self.windows.tuning.ids)
        return Clock(limit, s.jobs, cost, judging)

    def _next(self, clock: Clock) -> Stage | None:
        clock.spent = monotonic() - self.began
        done, names = self.plan.stages, [memory.name for memory in self.memories]
        return next_stage(done, names, self.settings, clock, self._tuning, self._undecided)

    def _tuning(self, run: Run) -> tuple[bool, float]:
        facts = self.trained[run][1]
        return facts["diverged_at"] is not None, facts["tuning_bits_per_byte"]

    def _undecided(self) -> list[str]:
        s = self.settings
        return [
            name
            for group in self.groups
            for name in undecided([self.measured(memory.name) for memory in group], self.slices, s.resamples)
        ]

    def _compute(self, stage: Stage, number: int, clock: Clock, compute: Compute, bar: Bar) -> bool:
        """The results of a stage, those of its dearest runs first, so that none of them is left to the end.

        Returns:
            Whether nothing of it had been computed before.
        """
        steps, full = stage.runs[0].steps, number >= FULL
        counting = [] if number > FULL else [self._counting(steps, full)]
        runs = sorted(stage.runs, key=lambda each: -clock.of([each]))
        cells = [*counting, *(self._training(each, full) for each in runs)]
        fresh = not any(cell.file(self.cells).exists() for cell in cells)
        results = run(cells, self.cells, compute, bar.report)
        if counting:
            tensors, facts = results.pop(0)
            self.counted[steps] = [
                Reference(name, tensors[f"bits.{i}"], tensors[f"replaced.{i}"])
                for i, name in enumerate(facts["names"])
            ]
        self.trained |= dict(zip(runs, results, strict=True))
        return fresh

    def _training(self, run: Run, full: bool) -> Cell:
        arguments = self._common() | {
            "memory": dataclasses.asdict(self.by_name[run.memory]),
            "seed": run.seed,
            "rate": run.rate,
            "steps": run.steps,
            "replaced": full,
            "kept": run.kept,
        }
        arguments |= self.start.arguments(self.by_name[run.memory])
        label = f"{self.by_name[run.memory].label}.seed{run.seed}.rate{run.rate}.steps{run.steps}"
        gpus = 0.0 if self.settings.device == "cpu" else 1.0
        return Cell(TRAIN, arguments, label, self._steps(run), tuple(self.inputs.values()), gpus=gpus)

    def _counting(self, steps: int, cache: bool) -> Cell:
        arguments = self._common() | {"seed": self.settings.seed, "steps": steps, "cache": cache}
        return Cell(COUNT, arguments, f"n-grams.steps{steps}", 0, tuple(self.inputs.values()))

    def _common(self) -> dict[str, Any]:
        return self.inputs | {"recipe": self.settings.recipe()}

    # ------------------------------------------------------------------------------------------- figures
    def measured(self, name: str) -> Measured:
        """The runs of one memory at its chosen rate."""
        done = self.plan.stages
        runs = [run for stage in done[FULL:] for run in stage.runs if run.memory == name]
        tensors, facts = zip(*(self.trained[run] for run in runs))
        rate = runs[0].rate
        earlier = {}
        for stage in done[:FULL]:
            best = min((run for run in stage.runs if run.memory == name), key=self._tuning)
            earlier[best.steps] = self.trained[best][0]["bits"]
        each = {key: torch.stack([found[key] for found in tensors]) for key in ("bits", "replaced", "hits")}
        return Measured(
            name,
            rate,
            at_the_edge(done, name, rate),
            **each,
            facts=facts,
            earlier=earlier,
            long=tensors[0]["long"],
        )

    def _first_look(self, stage: Stage) -> str:
        """The order so far, in a line."""
        best: dict[str, float] = {}
        for run_ in stage.runs:
            bits = per_byte(self.trained[run_][0]["bits"], self.slices.sizes)
            best[run_.memory] = min(best.get(run_.memory, bits), bits)
        order = sorted(best, key=best.get)
        return f"After {stage.runs[0].steps} steps: " + ", ".join(
            f"{name} {best[name]:.2f}" for name in order
        )

    def results(self, bar: Bar) -> dict[str, Any]:
        """The content of results.json."""
        s, steps = self.settings, self.plan.stages[FULL].runs[0].steps
        bar.begin("speeds, all memories in turn", 0)
        fast = self._speeds()
        counted, plain = self.counted[steps], self.measured(self.start.reference)
        of_a_step = s.batch * s.context * self.tokens.bytes_per_token
        tables = []
        for group in self.groups:
            measured = [self.measured(memory.name) for memory in group]
            table = summarise(measured, plain, counted, self.slices, s.resamples)
            for row in (table["power"] or {}).get("more_seeds", ()):
                row["seconds"] = self._seconds_with(row["seeds"])
            for row in (*table["memories"], *table["references"]):
                row |= fast.get(row["name"], {})
            ngrams = {n: each[1] for n, each in self.counted.items()}
            budgets = Budgets(measured, ngrams, self.slices.sizes, steps, s.resamples)
            table |= {
                "crossings": budgets.crossings(),
                "until_counting": budgets.until_counting(table["best"]["all"], of_a_step),
                "at_equal_time": budgets.at_equal_time(self._seconds_of_steps(fast)),
                "by_position": by_position([*measured, plain], self.windows.long.sizes, s.context),
            }
            tables.append(table)
        about = dict(self.plan.about)
        budget = {
            "steps": steps,
            "bytes": round(steps * of_a_step),
            "stages": [
                {"title": stage.title, "runs": len(stage.runs), "seconds": seconds}
                for stage, seconds in zip(self.plan.stages, self.plan.seconds)
            ],
        }
        results = tables[0] | {"budget": budget, "timed": s.steps is None, "cautions": list(self.cautions)}
        results |= {"published": tables[1]} if len(tables) > 1 else {}
        best = self.measured(results["best"]["all"])
        results |= self._examples(best, counted[1]) | about | {"machine": machine.facts()}
        results |= {"start": self.start.facts, "state_after": self._prompt.shape[1]}
        results["tokens"] = self._about_tokens()
        return {"conclusion": conclusion(results)} | results

    def _about_tokens(self) -> dict[str, Any]:
        """What the tokens are, and how many of them one is looked up by."""
        return {
            "unit": self.encoding.unit,
            "tokenizer": str(file) if (file := self.settings.tokenizer_file) else None,
            "sha256": self.encoding.facts.get("tokenizer"),
            "count": len(self.tokens.ids),
            "vocabulary": self.tokens.vocabulary,
            "bytes_per_token": self.tokens.bytes_per_token,
            "looked_up": self.settings.looked_up,
        }

    def _seconds_with(self, seeds: int) -> float | None:
        """How long all stages take with so many seeds of every memory, if it is known how long they took."""
        took = self.plan.seconds[: FULL + 1]
        if None in took:
            return None
        return sum(took[:FULL]) + took[FULL] * seeds / self.settings.seeds

    def _speeds(self) -> dict[str, Any]:
        """The speeds, measured once per folder."""
        path = self.settings.out / "speeds.safetensors"
        if not path.exists():
            found = [memory for memory in self.memories if self.start.decodes(memory)]
            windows = self.windows.validation.ids
            save_tensors(path, {}, speeds(self.start, found, self.settings, windows, self._prompt))
        return load_tensors(path)[1]

    @property
    def _prompt(self) -> Int[Tensor, "1 T"]:
        """What states and decoding are measured after."""
        return self.windows.first(self.start.after(self.settings.context))

    def _seconds_of_steps(self, fast: Mapping[str, Any]) -> dict[str, float]:
        """What a step takes by the speeds, with its share of a distillation."""
        tokens, found = self.settings.batch * self.settings.context, {}
        for name, each in fast.items():
            found[name] = tokens / each["training_tokens_per_second"]
            if share := self.start.distilled(self.by_name[name]):
                found[name] += share * tokens / each["distillation_tokens_per_second"]
        return found

    def _examples(self, best: Measured, counted: Reference) -> dict[str, Any]:
        """What every memory wrote behind the same beginning, and the windows that are hardest and easiest for
        the best one."""
        samples = {
            memory.name: self.encoding.decode(tensors["sample"].tolist())
            for memory, (tensors, _) in self.kept
        }
        sizes, places = self.slices.sizes.sum(1).clamp(min=1), self.windows.validation.places
        spent, ngram = (bits.double().sum(1) / sizes for bits in (best.bits.double().mean(0), counted.bits))
        order = spent.argsort(descending=True, stable=True).tolist()

        def window(i: int) -> dict[str, Any]:
            start, end = self.tokens.bounds[places[i, [0, -1]] + torch.tensor([0, 1])].tolist()
            file, byte = self.text.place(start)
            text = bytes(self.text.content[start:end].tolist()).decode(errors="replace")
            return {
                "file": file,
                "byte": byte,
                "bits": float(spent[i]),
                "ngram_bits": float(ngram[i]),
                "text": text,
            }

        return {
            "samples": samples,
            "given": PROMPT,
            "hardest": [window(i) for i in order[:EXAMPLES]],
            "easiest": [window(i) for i in order[::-1][:EXAMPLES]],
        }
