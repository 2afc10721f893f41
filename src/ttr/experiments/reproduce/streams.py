"""Regression at test time without any training: memories read a stream of pairs, and are asked at every next
key for its value."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

import ttr
from ttr.experiments.cells import Cell, Report, Result
from ttr.experiments.reproduce.experiment import TUNING_SEED, Experiment, Figures, Run
from ttr.experiments.reproduce.picture import errors_over_time
from ttr.tasks.regression import STREAMS, Stream

BINS_PER_OCTAVE, BINS = 4, 64


@dataclass(frozen=True)
class Option:
    """A memory with all its numbers.

    Attributes:
        problem: what it is.
        controls: the same for every token.
        mean: whether read-outs are multiplied by key size / pairs: what a sum over pairs is short of for unit
            keys that point in all directions alike.
        unit: whether keys and queries are normalised first.
    """

    problem: ttr.Problem
    controls: Mapping[str, float]
    mean: bool = False
    unit: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return vars(self) | {"problem": self.problem.to_dict(), "controls": dict(self.controls)}

    @staticmethod
    def from_dict(held: Mapping[str, Any]) -> Option:
        """What ``to_dict`` wrote."""
        return Option(**{**held, "problem": ttr.Problem.from_dict(held["problem"])})

    def read(self, keys: Float[Tensor, "B T K"], values: Float[Tensor, "B T V"]) -> Float[Tensor, "B T-1 V"]:
        """What it says at every key but the first, from the pairs before it."""
        if self.unit:
            keys = normalize(keys, dim=-1)
        read = self.answer(keys[:, 1:], keys[:, :-1], values[:, :-1])
        if self.mean:
            read = read * keys.shape[-1] / torch.arange(1, read.shape[1] + 1, dtype=read.dtype)[:, None]
        return read

    def answer(
        self, queries: Float[Tensor, "B T K"], keys: Float[Tensor, "B T K"], values: Float[Tensor, "B T V"]
    ) -> Float[Tensor, "B T V"]:
        """What it says to every query, from the pairs up to that token."""
        q, k, v = (x[:, :, None] for x in (queries, keys, values))
        of_tokens = {
            name: number if name == "ridge" else q.new_full(q.shape[:3], number)
            for name, number in self.controls.items()
        }
        return ttr.regress(self.problem, q, k, v, **of_tokens)[:, :, 0]


@dataclass(frozen=True)
class Learner:
    """A memory, and the options of which the best one on other streams is judged."""

    name: str
    options: Sequence[Option]


@dataclass(frozen=True)
class Panel:
    """A kind of stream, by its name in ``STREAMS`` and its settings, and who reads it."""

    title: str
    stream: str
    settings: Mapping[str, Any]
    learners: Sequence[Learner]


@dataclass(frozen=True, kw_only=True)
class StreamExperiment(Experiment):
    """Errors over time.

    Attributes:
        panels: the kinds of streams.
        windows: names of stretches of tokens, of which the mean errors are figures "panel, learner, window".
        streams: by scale, how many a seed gives.
        time: "log" to show how fast they learn, "linear" where something changes on the way.
    """

    panels: Sequence[Panel]
    windows: Mapping[str, tuple[int, int]]
    streams: Mapping[str, int]
    time: str = "log"

    def measure(self, scale: str, run: Run) -> dict[str, Any]:
        """The errors of every learner, the numbers chosen for it, and the hashes of the streams."""
        first, count = self.seeds[scale]
        cells = [
            Cell(
                "ttr.experiments.reproduce.streams:errors",
                {
                    "stream": panel.stream,
                    "settings": dict(panel.settings) | {"streams": self.streams[scale]},
                    "options": [option.to_dict() for option in learner.options],
                    "seeds": list(range(first, first + count)),
                },
                f"{self.name}.{i}.{j}",
                1,
            )
            for i, panel in enumerate(self.panels)
            for j, learner in enumerate(panel.learners)
        ]
        results = iter(run(cells))
        return {
            panel.title: {learner.name: self._summary(*next(results)) for learner in panel.learners}
            for panel in self.panels
        }

    def _summary(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> dict[str, Any]:
        """Means over the windows, and over stretches that grow with time, of every seed."""
        errors = tensors["errors"]
        count = errors.shape[1]
        if self.time == "log":
            edges = sorted({round(2 ** (i / BINS_PER_OCTAVE)) - 1 for i in range(64)} & {*range(count)})
        else:
            edges = list(range(0, count, -(-count // BINS)))
        stretches = list(zip(edges, [*edges[1:], count]))
        return dict(facts) | {
            "windows": {
                name: errors[:, first:end].mean(1).tolist() for name, (first, end) in self.windows.items()
            },
            "pairs": [(first + 1 + end) / 2 for first, end in stretches],
            "errors": [errors[:, first:end].mean(1).tolist() for first, end in stretches],
        }

    def figures(self, measured: Mapping[str, Any]) -> Figures:
        """The mean error in each window."""
        return {
            f"{panel}, {learner}, {window}": values
            for panel, learners in measured.items()
            for learner, found in learners.items()
            for window, values in found["windows"].items()
        }

    def draw(self, measured: Mapping[str, Any]) -> Figure:
        """A panel for each kind of stream."""
        return errors_over_time(measured, self.time)


def errors(arguments: dict[str, Any], folder: Path, checkpoint: Path, report: Report) -> Result:
    """The errors of one learner on streams of several seeds, with the option that is best on others.

    Returns:
        "errors" [S,T-1], at every key but the first: squared, mean over the streams of a seed, relative to
        the mean square of their values. "chosen", the number of the option; "floor", the same error of the
        values without their noise; "sha256" of the streams.
    """
    draw = functools.partial(STREAMS[arguments["stream"]], **arguments["settings"])
    options = [Option.from_dict(held) for held in arguments["options"]]
    chosen = 0
    if len(options) > 1:
        tuning = draw(seed=TUNING_SEED)
        spent = [_errors(option, tuning).mean().item() for option in options]
        chosen = min(range(len(options)), key=lambda i: (math.isnan(spent[i]), spent[i]))
    streams = [draw(seed=seed) for seed in arguments["seeds"]]
    found = torch.stack([_errors(options[chosen], stream) for stream in streams])
    report(arguments["stream"], 1, f"error {found.mean():.3g}")
    digest = hashlib.sha256()
    for stream in streams:
        for part in stream:
            digest.update(part.contiguous().numpy().tobytes())
    floor = [((s.values - s.truth).square().sum() / s.values.square().sum()).item() for s in streams]
    return {"errors": found}, {"chosen": chosen, "floor": floor, "sha256": digest.hexdigest()}


def _errors(option: Option, stream: Stream) -> Float[Tensor, " asked"]:
    keys, values, _ = (x.double() for x in stream)
    off = (option.read(keys, values) - values[:, 1:]).square().sum(-1).mean(0)
    return off / values.square().sum(-1).mean()
