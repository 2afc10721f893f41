"""Recursive least squares and its relatives against batch regression, and what becomes of a regression whose
weights may be negative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ttr.experiments.cells import Cell, Report, Result
from ttr.experiments.picture import COLOURS, unboxed
from ttr.experiments.reproduce.experiment import Figures, Run
from ttr.experiments.reproduce.identities import ALIKE, LEAST, IdentityExperiment, draw_call
from ttr.experiments.reproduce.picture import line_of_seeds

STYLES = ("-", "--", ":", "-.", "-", "--")


@dataclass(frozen=True, kw_only=True)
class RecursiveExperiment(IdentityExperiment):
    """Recurrences against batch regression token by token, and the curvature of weighted objectives.

    Attributes:
        decays: by name, the number a of the weights a^(t - i).
    """

    decays: Mapping[str, float]

    def measure(self, scale: str, run: Run) -> dict[str, Any]:
        """Differences by recurrence, and by decay the smallest eigenvalue at each token of each seed."""
        first, count = self.seeds[scale]
        curvature = Cell(
            "ttr.experiments.reproduce.recursive:curvatures",
            {
                "decays": list(self.decays.values()),
                "sizes": dict(self.sizes),
                "seeds": list(range(first, first + count)),
            },
            f"{self.name}.curvature",
            1,
        )
        *compared, (tensors, _) = run([*self._cells(scale), curvature])
        smallest = dict(zip(self.decays, tensors["smallest"].tolist(), strict=True))
        return self._differences(compared) | {"smallest eigenvalue": smallest}

    def figures(self, measured: Mapping[str, Any]) -> Figures:
        """The largest differences, and the share of tokens whose objective has a minimum."""
        shares = {
            f"{name}, tokens with a minimum": [fmean(value > 0 for value in seed) for seed in seeds]
            for name, seeds in measured["smallest eigenvalue"].items()
        }
        return {**super().figures(measured), **shares}

    def draw(self, measured: Mapping[str, Any]) -> Figure:
        """Differences by token, and smallest eigenvalues by token."""
        figure = Figure(figsize=(11, 4.8), layout="constrained", dpi=130)
        FigureCanvasAgg(figure)
        compared, curved = figure.subplots(1, 2)
        for i, name in enumerate(self.layers):
            _by_token(compared, [[max(x, LEAST) for x in seed] for seed in measured[name]], i, name)
        compared.axhline(ALIKE, color="#444444", linestyle="--", linewidth=1)
        compared.annotate("1e-10", (1, ALIKE), xytext=(0, 4), textcoords="offset points", fontsize=9)
        compared.set(title="against batch regression", xlabel="token", yscale="log", ylim=(LEAST, 1e2))
        compared.set_ylabel("largest relative difference")
        for i, (name, seeds) in enumerate(measured["smallest eigenvalue"].items()):
            _by_token(curved, seeds, i, name)
        curved.axhline(0, color="#444444", linewidth=1)
        curved.annotate(
            "no minimum below 0",
            (self.sizes["length"], 0),
            xytext=(0, -13),
            textcoords="offset points",
            horizontalalignment="right",
            fontsize=9,
        )
        curved.set(title="curvature of the weighted objective", xlabel="token")
        curved.set_ylabel("smallest eigenvalue")
        for axes in (compared, curved):
            axes.title.set_fontsize(11)
            unboxed(axes)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False, fontsize=9)
        return figure


def _by_token(axes: Axes, seeds: Sequence[Sequence[float]], i: int, name: str) -> None:
    tokens = range(1, len(seeds[0]) + 1)
    style = {"color": COLOURS[i], "linestyle": STYLES[i], "linewidth": 1.6, "label": name}
    line_of_seeds(axes, tokens, list(zip(*seeds, strict=True)), **style)


def curvatures(arguments: dict[str, Any], folder: Path, checkpoint: Path, report: Report) -> Result:
    """The smallest eigenvalue of the second derivative H_t + ridge I of a weighted objective, with H_t =
    sum_i a^(t - i) k_i k_i^T. If it is below 0 the objective has no minimum: it falls without end along that
    direction.

    Returns:
        "smallest" [D,S,T], by decay a and seed, at each token the smallest over the sequences.
    """
    found = []
    for decay in arguments["decays"]:
        of_seed = []
        for seed in arguments["seeds"]:
            call = draw_call(seed, **arguments["sizes"])
            hessian, smallest = call["ridge"] * torch.eye(call["k"].shape[-1]).to(call["k"]), []
            gram = torch.zeros_like(hessian)
            for key in call["k"].unbind(1):
                gram = decay * gram + key[..., :, None] * key[..., None, :]
                smallest.append(torch.linalg.eigvalsh(gram + hessian)[..., 0].amin())
            of_seed.append(torch.stack(smallest))
        found.append(torch.stack(of_seed))
    report("curvature", 1, f"smallest eigenvalue {torch.stack(found).min():.3g}")
    return {"smallest": torch.stack(found)}, {}
