"""Layers as regressions: how far what the library computes for a ``Problem`` is from the published
recurrence, in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

import ttr
from ttr.experiments.cells import Cell, Report, Result
from ttr.experiments.picture import COLOURS, unboxed
from ttr.experiments.reproduce import published
from ttr.experiments.reproduce.experiment import Experiment, Figures, Run

ALIKE = 1e-10
"""Relative differences up to here are rounding."""

LEAST = 1e-17
"""Where differences of 0 are drawn."""


@dataclass(frozen=True)
class Layer:
    """A published layer and the three choices that make it.

    Attributes:
        weights, function, solver: the choices in words.
        problem: the choices as the library takes them.
        published: its recurrence, the name of a function of ``published``.
        inputs: arguments of ``ttr.regress`` and the names of the tensors of a call that they are; q, k and v
            are those of these names where nothing else is said.
    """

    weights: str
    function: str
    solver: str
    problem: ttr.Problem
    published: str
    inputs: Mapping[str, str]

    @property
    def choices(self) -> tuple[str, str, str]:
        return self.weights, self.function, self.solver


@dataclass(frozen=True, kw_only=True)
class IdentityExperiment(Experiment):
    """The largest relative difference of each layer to its recurrence.

    Attributes:
        layers: by name.
        sizes: batch, length, key size and value size of a call, and the ridge.
    """

    layers: Mapping[str, Layer]
    sizes: Mapping[str, int | float]

    def measure(self, scale: str, run: Run) -> dict[str, Any]:
        """By layer the difference at each token of each seed."""
        return self._differences(run(self._cells(scale)))

    def _cells(self, scale: str) -> list[Cell]:
        first, count = self.seeds[scale]
        return [
            Cell(
                "ttr.experiments.reproduce.identities:differences",
                {
                    "problem": layer.problem.to_dict(),
                    "published": layer.published,
                    "inputs": dict(layer.inputs),
                    "sizes": dict(self.sizes),
                    "seeds": list(range(first, first + count)),
                },
                f"{self.name}.{i}",
                1,
            )
            for i, layer in enumerate(self.layers.values())
        ]

    def _differences(self, results: Sequence[Result]) -> dict[str, Any]:
        return {
            name: tensors["difference"].tolist()
            for name, (tensors, _) in zip(self.layers, results, strict=True)
        }

    def figures(self, measured: Mapping[str, Any]) -> Figures:
        """The largest difference of each layer, of each seed."""
        return {name: [max(seed) for seed in measured[name]] for name in self.layers}

    def draw(self, measured: Mapping[str, Any]) -> Figure:
        """A table of the layers and their choices, with a logarithmic axis of differences beside it."""
        figure = Figure(figsize=(12, 1.3 + 0.33 * len(self.layers)), layout="constrained", dpi=130)
        FigureCanvasAgg(figure)
        table, axes = figure.subplots(1, 2, sharey=True, width_ratios=(2.1, 1))
        _table(table, self.layers)
        for y, seeds in enumerate(self.figures(measured).values()):
            shown = [max(value, LEAST) for value in seeds]
            axes.plot([min(shown), max(shown)], [y, y], color=COLOURS[0], linewidth=1.5)
            axes.plot(shown, [y] * len(shown), "o", color=COLOURS[0], markersize=6)
        axes.axvline(ALIKE, color=COLOURS[1], linestyle="--", linewidth=1.5)
        axes.axvline(torch.finfo(torch.float64).eps, color="#7f7f7f", linestyle=":", linewidth=1.5)
        for x, words, colour in ((ALIKE, "band", COLOURS[1]), (2.2e-16, "one rounding", "#5f5f5f")):
            axes.annotate(
                words,
                (x, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                horizontalalignment="center",
                fontsize=9,
                color=colour,
            )
        axes.set(xscale="log", xlim=(LEAST, 1e-8), xlabel="largest relative difference, a dot for each seed")
        unboxed(axes)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", left=False)
        return figure


def _table(axes: Any, layers: Mapping[str, Layer]) -> None:
    """Rows of words under the names of their columns."""
    columns = ((0.0, "layer"), (0.33, "weights"), (0.56, "function"), (0.81, "solver"))
    axes.set(xlim=(0, 1), ylim=(len(layers) - 0.5, -0.5))
    axes.axis("off")
    for x, title in columns:
        axes.annotate(
            title,
            (x, 1.0),
            xycoords="axes fraction",
            xytext=(0, 3),
            textcoords="offset points",
            fontweight="bold",
            fontsize=10,
        )
    for y, (name, layer) in enumerate(layers.items()):
        if y % 2 == 0:
            axes.axhspan(y - 0.5, y + 0.5, color="#f3f3f3", linewidth=0)
        for (x, _), words in zip(columns, (name, *layer.choices), strict=True):
            axes.text(x + 0.005, y, words, verticalalignment="center", fontsize=9.5)


def differences(arguments: dict[str, Any], folder: Path, checkpoint: Path, report: Report) -> Result:
    """How far ``ttr.regress`` is from a published recurrence on calls of several seeds.

    Returns:
        "difference" [S,T]: at each token the largest over sequences and channels, relative to the largest
        number that the recurrence gives.
    """
    problem = ttr.Problem.from_dict(arguments["problem"])
    recurrence = getattr(published, arguments["published"])
    found = []
    for seed in arguments["seeds"]:
        call = draw_call(seed, **arguments["sizes"])
        reference, read = recurrence(call), regress(problem, call, arguments["inputs"])
        found.append((read - reference).abs().amax((0, 2)) / reference.abs().max())
    report("identities", 1, f"{arguments['published']}: {torch.stack(found).max():.1e}")
    return {"difference": torch.stack(found)}, {}


def regress(
    problem: ttr.Problem, call: Mapping[str, Tensor], inputs: Mapping[str, str]
) -> Float[Tensor, "B T V"]:
    """What the library gives for a call; a name that is a number is that number."""
    given = {}
    for argument, name in ({name: name for name in "qkv"} | dict(inputs)).items():
        tensor = call.get(name)
        given[argument] = (
            float(name)
            if tensor is None
            else float(tensor)
            if tensor.ndim == 0
            else tensor.unsqueeze(_head(name))
        )
    return ttr.regress(problem, **given)[:, :, 0]


def _head(name: str) -> int:
    """Where the axis of heads is: behind that of tokens, or of the pairs of a token."""
    return 3 if name.startswith("pair") else 2


def draw_call(
    seed: int, batch: int, length: int, size: int, value_size: int, ridge: float
) -> dict[str, Tensor]:
    """Random tensors for every layer: keys of norms between 0.5 and 1.2, for which steps below 1 are stable;
    decays between 0.9 and 1, which fall with the channel's own random rate where there is one for each."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, length, *shape, generator=generator, dtype=torch.float64)

    def share(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(batch, length, *shape, generator=generator, dtype=torch.float64)
        return low + (high - low) * drawn

    def keys(*pairs: int) -> Tensor:
        return share(0.5, 1.2, *pairs, 1) * normalize(normal(*pairs, size), dim=-1)

    call = {"q": normal(size), "k": keys(), "v": normal(value_size)}
    call |= {"pair_keys": keys(2), "pair_values": normal(2, value_size), "pair_steps": share(0.1, 1.0, 2)}
    call |= {"log_decay": share(0.9, 1.0).log(), "log_decays": share(0.9, 1.0, size).log()}
    call |= {
        "step_size": share(0.1, 1.0),
        "momentum": share(0.1, 0.9),
        "log_importance": share(0.1, 1.0).log(),
    }
    fixed = torch.full_like(call["log_decay"], 0.98).log()
    return call | {
        "fixed_decay": fixed,
        "growth": -fixed.cumsum(1),
        "retention": torch.full_like(fixed, 1 - 2.0**-5).log(),
        "ridge": torch.tensor(ridge, dtype=torch.float64),
    }
