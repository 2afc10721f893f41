"""The bias of local fits of different order where the region of the keys ends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ttr.experiments.cells import Cell, Report, Result
from ttr.experiments.picture import COLOURS, unboxed
from ttr.experiments.reproduce.convergence import MARKS, slope
from ttr.experiments.reproduce.experiment import Experiment, Figures, Run
from ttr.experiments.reproduce.picture import DASHES, legend, line_of_seeds
from ttr.experiments.reproduce.streams import Option
from ttr.tasks.regression import arc

BIAS, ERROR = "squared bias", "mean squared error"
LEAST = 1e-7
"""Squared biases below it are chance."""
THEORY = "squared bias of first order at an end"


@dataclass(frozen=True, kw_only=True)
class BoundaryExperiment(Experiment):
    """Queries at fixed angles, asked from many streams on an arc.

    Attributes:
        orders: by name, the local fit for each scale of the kernel, one over its squared bandwidth.
        shown: the scale at which errors are shown by angle.
        length: pairs of a stream; the last ones are asked.
        angles: how many angles are asked, from end to end of the arc; odd.
        settings: of the stream.
        streams: by scale, how many a seed gives.
    """

    orders: Mapping[str, Mapping[float, Option]]
    shown: float
    length: int
    angles: int
    settings: Mapping[str, int | float]
    streams: Mapping[str, int]

    def measure(self, scale: str, run: Run) -> dict[str, Any]:
        """By order: bias and error by angle at the shown scale, and the bias at the ends by bandwidth."""
        first, count = self.seeds[scale]
        cells = [
            Cell(
                "ttr.experiments.reproduce.boundary:by_angle",
                {
                    "options": [option.to_dict() for option in of_scale.values()],
                    "length": self.length,
                    "angles": self.angles,
                    "settings": dict(self.settings) | {"streams": self.streams[scale]},
                    "seeds": list(range(first, first + count)),
                },
                f"{self.name}.{i}",
                1,
            )
            for i, of_scale in enumerate(self.orders.values())
        ]
        measured = {}
        for (order, of_scale), (tensors, facts) in zip(self.orders.items(), run(cells), strict=True):
            at = list(of_scale).index(self.shown)
            ends = tensors["bias"][..., [0, -1]].mean(-1).T.tolist()
            measured[order] = {
                "angles": facts["angles"],
                BIAS: tensors["bias"][:, at].T.tolist(),
                ERROR: tensors["error"][:, at].T.tolist(),
                "bandwidths": [scale**-0.5 for scale in of_scale],
                "ends": ends,
            }
        return measured

    def figures(self, measured: Mapping[str, Any]) -> Figures:
        """Means over both ends, and over the middle third of the arc; and the power of the bandwidth with
        which the bias at the ends grows."""
        figures: dict[str, Sequence[float]] = {}
        theory = first_order_bias(self.settings["half_angle"], self.shown**-0.5)
        for order, found in measured.items():
            for what in (BIAS, ERROR):
                by_angle = found[what]
                third = len(by_angle) // 3
                for where, part in (
                    ("ends", [by_angle[0], by_angle[-1]]),
                    ("middle", by_angle[third : len(by_angle) - third]),
                ):
                    figures[f"{order}, {what}, {where}"] = [fmean(seed) for seed in zip(*part, strict=True)]
            figures[THEORY] = [theory] * len(found[BIAS][0])
            figures[f"{order}, power of the bandwidth"] = [
                slope(found["bandwidths"], seed) / 2 for seed in zip(*found["ends"], strict=True)
            ]
        return figures

    def draw(self, measured: Mapping[str, Any]) -> Figure:
        """Bias and error by angle, and the bias at the ends by bandwidth."""
        figure = Figure(figsize=(12, 4.4), layout="constrained", dpi=130)
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 3, sharey=True)
        handles = {}
        for i, (order, found) in enumerate(measured.items()):
            style = {"color": COLOURS[i], "linestyle": DASHES[i]}
            degrees = [math.degrees(angle) for angle in found["angles"]]
            for axes, what in zip(panels, (BIAS, ERROR)):
                handles[order] = line_of_seeds(axes, degrees, found[what], **style)
            line_of_seeds(panels[2], found["bandwidths"], found["ends"], marker=MARKS[i], **style)
        predicted = [first_order_bias(self.settings["half_angle"], h) for h in found["bandwidths"]]
        handles["theory, order 0"] = panels[2].plot(
            found["bandwidths"], predicted, ":", color="#444444", linewidth=1.5, zorder=3
        )[0]
        end = math.degrees(measured[order]["angles"][-1])
        for axes, what in zip(panels, (BIAS, ERROR)):
            axes.set(title=f"{what}, bandwidth {self.shown**-0.5:.3g}", xlabel="angle of the query, degrees")
            axes.set_xticks([-end, -end / 2, 0, end / 2, end])
        panels[2].set(title=f"{BIAS} at the ends", xlabel="bandwidth (radians)", xscale="log")
        panels[2].set_xticks(found["bandwidths"], [f"{each:.2g}" for each in found["bandwidths"]])
        panels[2].minorticks_off()
        panels[0].set(ylabel="squared distance from the truth", yscale="log")
        panels[0].set_ylim(bottom=max(LEAST, panels[0].get_ylim()[0]))
        for axes in panels:
            axes.title.set_fontsize(11)
            unboxed(axes)
        legend(figure, handles)
        return figure


def first_order_bias(half_angle: float, bandwidth: float) -> float:
    """The squared bias that a local constant fit of (a, a^2) has at an end of the arc, to first order: with
    keys of equal density on one side, E v(a + h u) - v(a) = h v' E u and E u = sqrt(2 / pi) for the half of a
    normal kernel (Fan and Gijbels, Local polynomial modelling, section 3.2)."""
    slope_squared = 1 + (2 * half_angle) ** 2
    return 2 / math.pi * bandwidth**2 * slope_squared


def by_angle(arguments: dict[str, Any], folder: Path, checkpoint: Path, report: Report) -> Result:
    """What local fits say at fixed angles, against the truth (a, a^2).

    The last tokens of every stream are asked, each at one angle, in place of their own keys; they have read
    nearly all pairs.

    Returns:
        "bias" [S,O,A] by seed, option and angle: the squared distance of the mean read-out over the streams
        from the truth; "error": the mean squared distance. "angles".
    """
    options = [Option.from_dict(held) for held in arguments["options"]]
    settings, count = arguments["settings"], arguments["angles"]
    angles = settings["half_angle"] * torch.linspace(-1, 1, count, dtype=torch.float64)
    asked, truth = torch.stack([angles.cos(), angles.sin()], -1), torch.stack([angles, angles.square()], -1)
    bias, error = [], []
    for seed in arguments["seeds"]:
        stream = arc(length=arguments["length"], seed=seed, **settings)
        keys, values = stream.keys.double(), stream.values.double()
        queries = keys.clone()
        queries[:, -count:] = asked
        read = torch.stack([option.answer(queries, keys, values)[:, -count:] for option in options])
        bias.append((read.mean(1) - truth).square().sum(-1))
        error.append((read - truth).square().sum(-1).mean(1))
    report("boundary", 1, f"bias {bias[0][0, 0]:.3g} at an end")
    return {"bias": torch.stack(bias), "error": torch.stack(error)}, {"angles": angles.tolist()}
