"""Solving regressions by iteration: the systems of ridge regression and of local linear regression, and the
library's own solvers on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ttr.component import Component
from ttr.experiments.cells import Cell, Report, Result
from ttr.experiments.picture import COLOURS, unboxed
from ttr.experiments.reproduce.experiment import Experiment, Figures, Run
from ttr.experiments.reproduce.picture import line_of_seeds
from ttr.solvers.chebyshev import Chebyshev
from ttr.solvers.conjugate_gradient import ConjugateGradient
from ttr.tasks.regression import STREAMS

STYLES = ("-", "-", "--", "--", ":", ":")


@dataclass(frozen=True)
class Solve:
    """A solver on the systems of a kind of stream.

    Attributes:
        systems: "global" or "local", see ``SYSTEMS``.
        stream, settings: by its name in ``STREAMS``.
        solver: ``iterations`` of it does not matter here.
        ridge: what is added to the matrices; None where the solver has a ridge of its own.
        scale: of the kernel of local systems.
    """

    systems: str
    stream: str
    settings: Mapping[str, int | float]
    solver: ConjugateGradient | Chebyshev
    ridge: float | None = None
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SolvingExperiment(Experiment):
    """Iterations until a residual is reached.

    Attributes:
        curves: solves whose residuals are shown by iteration, by name.
        sweep: solves by the ridge.
        iterations: the largest number.
        residuals: relative residuals to reach.
        streams: by scale, how many a seed gives.
    """

    curves: Mapping[str, Solve]
    sweep: Mapping[float, Solve]
    iterations: int
    residuals: Sequence[float]
    streams: Mapping[str, int]

    def measure(self, scale: str, run: Run) -> dict[str, Any]:
        """By solve: the median residual at each iteration, and how many iterations residuals take."""
        first, count = self.seeds[scale]
        named = dict(self.curves) | {f"ridge {ridge:g}": solve for ridge, solve in self.sweep.items()}
        cells = [
            Cell(
                "ttr.experiments.reproduce.solving:residuals",
                {
                    "systems": solve.systems,
                    "stream": solve.stream,
                    "settings": dict(solve.settings) | {"streams": self.streams[scale]},
                    "solver": solve.solver.to_dict(),
                    "ridge": solve.ridge,
                    "scale": solve.scale,
                    "iterations": self.iterations,
                    "residuals": list(self.residuals),
                    "seeds": list(range(first, first + count)),
                },
                f"{self.name}.{i}",
                1,
            )
            for i, solve in enumerate(named.values())
        ]
        return {
            name: facts | {"residual": tensors["residual"].tolist()}
            for name, (tensors, facts) in zip(named, run(cells), strict=True)
        }

    def figures(self, measured: Mapping[str, Any]) -> Figures:
        """The median numbers of iterations, as "solve, to residual"."""
        return {
            f"{name}, to {residual:g}": found["iterations"][i]
            for name, found in measured.items()
            for i, residual in enumerate(self.residuals)
        }

    def draw(self, measured: Mapping[str, Any]) -> Figure:
        """Residuals by iteration, and iterations by ridge."""
        figure = Figure(figsize=(11, 4.8), layout="constrained", dpi=130)
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
        for i, name in enumerate(self.curves):
            _curve(left, measured[name]["residual"], i, name)
        left.set(yscale="log", ylim=(1e-7, 2), xlabel="iterations", ylabel="relative residual, median")
        left.set_title("ridge regression on 1,024 pairs, 64 channels")
        for j, residual in enumerate(self.residuals):
            seeds = [measured[f"ridge {ridge:g}"]["iterations"][j] for ridge in self.sweep]
            style = {"color": COLOURS[j], "marker": "osD^"[j], "label": f"to {residual:g}"}
            line_of_seeds(right, list(self.sweep), seeds, **style)
        right.set(xscale="log", ylim=(0, None), xlabel="ridge", ylabel="iterations, median")
        right.set_title("local linear attention, 32 channels")
        for axes, columns in ((left, 2), (right, len(self.residuals))):
            axes.title.set_fontsize(11)
            unboxed(axes)
            axes.legend(
                loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=columns, frameon=False, fontsize=9
            )
        return figure


def _curve(axes: Axes, seeds: Sequence[Sequence[float]], i: int, name: str) -> None:
    style = {"color": COLOURS[i], "linestyle": STYLES[i], "label": name}
    line_of_seeds(axes, range(len(seeds[0])), list(zip(*seeds, strict=True)), **style)


def global_systems(
    keys: Float[Tensor, "B T K"], scale: float
) -> tuple[Float[Tensor, "B K K"], Float[Tensor, "B K"]]:
    """H = sum_i k_i k_i^T over all pairs but the last, whose key is the query: the right-hand side."""
    before = keys[:, :-1]
    return before.mT @ before, keys[:, -1]


def local_systems(
    keys: Float[Tensor, "B T K"], scale: float
) -> tuple[Float[Tensor, "N K K"], Float[Tensor, "N K"]]:
    """Cov_p(k) and kbar - q of every token, with p the softmax of scale q.k_i over the keys so far and q the
    next key (the centred form of arXiv 2510.01450: y = vbar - Cov_p(v, k) (Cov_p(k) + ridge I)^-1 (kbar -
    q)). Tokens that have read fewer keys than there are channels have matrices of low rank; they count too.
    """
    queries, before = keys[:, 1:], keys[:, :-1]
    scores = scale * queries @ before.mT
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    share = torch.softmax(scores.masked_fill(future, -torch.inf), dim=-1)
    mean = share @ before
    second = torch.einsum("bti,bik,bil->btkl", share, before, before)
    covariance = second - mean[..., :, None] * mean[..., None, :]
    return covariance.flatten(0, 1), (mean - queries).flatten(0, 1)


SYSTEMS: Mapping[str, Callable[[Tensor, float], tuple[Tensor, Tensor]]] = {
    "global": global_systems,
    "local": local_systems,
}
"""The matrices without their ridge, and the right-hand sides."""


def residuals(arguments: dict[str, Any], folder: Path, checkpoint: Path, report: Report) -> Result:
    """Relative residuals |b - A x_n| / |b| of the iterates of a solver, whose n-th is what the solver of n
    iterations gives.

    Returns:
        "residual" [S,N+1] by seed and iteration, the median over systems. "iterations": for each residual to
        reach, of each seed the median over systems of the first iteration there; one more than the largest
        number where it is not reached. "condition", the median condition number of each seed.
    """
    solver = Component.from_dict(arguments["solver"])
    draw, most = STREAMS[arguments["stream"]], arguments["iterations"]
    curves, conditions, counts = [], [], [[] for _ in arguments["residuals"]]
    for seed in arguments["seeds"]:
        keys = draw(seed=seed, **arguments["settings"]).keys.double()
        matrix, right = SYSTEMS[arguments["systems"]](keys, arguments["scale"])
        found, condition = iterate(solver, matrix, right, arguments["ridge"], most)
        curves.append(found.median(1).values)
        conditions.append(condition.median().item())
        for target, of_target in zip(arguments["residuals"], counts, strict=True):
            reached = (found <= target).cummax(0).values
            of_target.append((~reached).sum(0).double().median().item())
    report("solving", 1, f"{counts[0][0]:g} iterations to {arguments['residuals'][0]:g}")
    return {"residual": torch.stack(curves)}, {"iterations": counts, "condition": conditions}


def iterate(
    solver: ConjugateGradient | Chebyshev,
    matrix: Float[Tensor, "N K K"],
    right: Float[Tensor, "N K"],
    ridge: float | None,
    most: int,
) -> tuple[Float[Tensor, "I N"], Float[Tensor, " N"]]:
    """Relative residuals of 0 to ``most`` iterations, and condition numbers. A solver without a ``ridge``
    adds ratio ||H||_F itself."""
    norm = matrix.square().sum((-2, -1))
    added = solver.ratio * norm.sqrt() if ridge is None else torch.full_like(norm, ridge)
    system = matrix + added[:, None, None] * torch.eye(matrix.shape[-1]).to(matrix)
    given = matrix if ridge is None else system
    eigenvalues, length = torch.linalg.eigvalsh(system), right.norm(dim=-1)
    found = [torch.ones_like(length)]
    for n in range(1, most + 1):
        x = type(solver)(**{**vars(solver), "iterations": n}).iterate(
            lambda x: (given @ x[..., None])[..., 0], norm, right
        )
        found.append((right - (system @ x[..., None])[..., 0]).norm(dim=-1) / length)
    return torch.stack(found), eigenvalues[:, -1] / eigenvalues[:, 0]
