"""Accuracy and cost of a slope of limited rank: softmax attention, local linear regression of rank r, and
full local linear regression on synthetic streams.

``python -m ttr.experiments.slope_rank docs/slope-rank`` writes the numbers, the table and the figure. A layer
reads at the next key and is scored on the next value; the scale of its kernel and its ridge are chosen on
other streams than those it is scored on. Rank r is measured with a random projection and with one trained on
further streams through the layer's derivative.
"""

from __future__ import annotations

import functools
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import ttr
from ttr.functions.local_constant import LocalConstant
from ttr.functions.local_linear import LocalLinear
from ttr.problem import Problem
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.tasks.regression import Stream, piecewise_linear, smooth_map
from ttr.weights.uniform import Uniform

SCALES, RIDGES = (4.0, 8.0, 16.0, 32.0, 64.0), (1e-3, 1e-2, 1e-1)
RANKS = (2, 4, 8, 16)
TUNE, TRAIN, SCORE = 1000, 2000, 3000
"""Seeds of the streams for the choice of scale and ridge, of the first stream that trains a projection, and
of the first that scores."""

NOTE = """Softmax attention (rank 0), local linear regression with a slope along some directions of the
keys, and full local linear regression, without any other trained parameters: a layer reads at the next key
and is scored on the next value. There are five kinds of streams of 1024 tokens; scores are over three batches
of four streams. The scale of the kernel and the ridge are chosen on other streams. A rank below the number of
channels is measured with a random projection, and with one trained on further streams by 100 steps of Adam
through the layer's derivative. Times are of the forward pass of these small layers, on one core of a busy
machine.

If all directions of the keys matter equally, as in the first two kinds of streams, a slope of low rank does
not pay: there is no gain until the rank is nearly that of the keys. If only 4 of 32 channels matter, a
learned slope of rank 4 has less than half the error of the full fit, which has more parameters to fit from
the same pairs, at a ninth of its time; on the smooth map of 16 channels rank 8 is also better than the full
fit. A random projection gains little in all cases. The streams are those of `ttr.tasks.regression`; `python
-m ttr.experiments.slope_rank docs/slope-rank` writes this page."""

Draw = Callable[[int], Stream]


def streams(length: int) -> dict[str, tuple[int, Draw]]:
    """The streams by name, with their number of channels."""
    piecewise = functools.partial(piecewise_linear, 4, length, segment=128)
    return {
        "piecewise linear, 16 channels": (16, lambda seed: piecewise(size=16, seed=seed)),
        "piecewise linear, 32 channels": (32, lambda seed: piecewise(size=32, seed=seed)),
        "the same, 4 channels count": (32, lambda seed: piecewise(size=32, seed=seed, directions=4)),
        "one smooth map, 4 channels": (4, lambda seed: smooth_map(4, length, 4, seed)),
        "one smooth map, 16 channels": (16, lambda seed: smooth_map(4, length, 16, seed)),
    }


def problem(rank: int, size: int, scale: float) -> Problem:
    """Rank 0 is softmax attention, rank ``size`` full local linear regression."""
    function = (
        LocalConstant(scale=scale)
        if rank == 0
        else LocalLinear(scale=scale, rank=None if rank == size else rank)
    )
    return Problem(Uniform(), function, ExactLocalFit())


def read(
    rank: int, scale: float, ridge: float, keys: Tensor, values: Tensor, projection: Tensor | None
) -> Tensor:
    """The read-outs of the layer at every next key, [B,T-1,D]."""
    params = {} if projection is None else {"function.projection": projection}
    controls = {"ridge": ridge} if rank else {}
    q, k, v = (x[:, :, None] for x in (keys[:, 1:], keys[:, :-1], values[:, :-1]))
    return ttr.regress(problem(rank, keys.shape[-1], scale), q, k, v, params=params, **controls)[:, :, 0]


def score(rank: int, scale: float, ridge: float, stream: Stream, projection: Tensor | None) -> Tensor:
    """The squared error relative to the squared values."""
    keys, values, _ = stream
    return (read(rank, scale, ridge, keys, values, projection) - values[:, 1:]).square().sum() / values[
        :, 1:
    ].square().sum()


def learned(rank: int, scale: float, ridge: float, stream: Draw, start: Tensor, steps: int) -> Tensor:
    """A projection trained by Adam, every step on a new stream. Its norm acts only through the ridge, so its
    rows are orthonormalised at the end."""
    projection = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([projection], lr=0.02)
    for step in range(steps):
        optimizer.zero_grad()
        score(rank, scale, ridge, stream(TRAIN + step), projection).backward()
        optimizer.step()
    return torch.linalg.qr(projection.detach().mT)[0].mT.contiguous()


def seconds(call: Callable[[], object], rounds: int = 5) -> float:
    """Median time on one core."""
    call()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times)


def tuned(rank: int, stream: Draw, projection: Tensor | None) -> tuple[float, float]:
    """The scale and the ridge that are best on a separate stream."""
    with torch.no_grad():
        return min(
            itertools.product(SCALES, RIDGES if rank else (0.0,)),
            key=lambda numbers: score(rank, *numbers, stream(TUNE), projection),
        )


def projections(rank: int, size: int, stream: Draw, steps: int) -> dict[str, Tensor | None]:
    """The kinds of projection. A trained one is trained with scale and ridge of full local linear regression:
    with those of softmax attention, whose kernel is narrow, the slope has no effect."""
    if rank in (0, size):
        return {"none": None}
    generator = torch.Generator().manual_seed(0)
    start = ttr.init_params(
        problem(rank, size, 1.0), heads=1, key_size=size, value_size=size, generator=generator
    )["function.projection"]
    return {"random": start, "learned": learned(rank, *tuned(size, stream, None), stream, start, steps)}


def measure(length: int = 1024, steps: int = 100, scored: int = 3) -> list[dict[str, object]]:
    """One row per stream, rank and kind of projection."""
    rows = []
    for name, (size, stream) in streams(length).items():
        attention = None
        for rank in (0, *(rank for rank in RANKS if rank < size), size):
            for kind, projection in projections(rank, size, stream, steps).items():
                scale, ridge = tuned(rank, stream, projection)
                with torch.no_grad():
                    errors = [
                        score(rank, scale, ridge, stream(SCORE + i), projection).item() for i in range(scored)
                    ]
                    cost = seconds(functools.partial(read, rank, scale, ridge, *stream(SCORE), projection))
                attention = attention or cost
                rows.append(
                    {
                        "stream": name,
                        "rank": rank,
                        "projection": kind,
                        "scale": scale,
                        "ridge": ridge,
                        "error": statistics.mean(errors),
                        "least": min(errors),
                        "most": max(errors),
                        "cost": cost / attention,
                    }
                )
                print(rows[-1], flush=True)
    return rows


def table(rows: list[dict[str, object]]) -> str:
    """The rows as a table in Markdown."""
    lines = [
        "| stream | rank | projection | scale | ridge | relative error, mean (range) | time, softmax "
        "attention = 1 |",
        f"|{'---|' * 7}",
    ]
    for row in rows:
        lines.append(
            f"| {row['stream']} | {row['rank']} | {row['projection']} | {row['scale']:g} | "
            f"{row['ridge']:g} | "
            f"{row['error']:.3f} ({row['least']:.3f}-{row['most']:.3f}) | {row['cost']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, object]], file: Path) -> None:
    """Error against time, a panel per stream."""
    names = list(dict.fromkeys(row["stream"] for row in rows))
    figure = Figure(figsize=(3.4 * len(names), 3.4), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names):
        for way, colour, marker in (("random", "#0072B2", "o"), ("learned", "#D55E00", "s")):
            of_way = [row for row in rows if row["stream"] == name and row["projection"] in (way, "none")]
            axes.plot(
                [row["cost"] for row in of_way],
                [row["error"] for row in of_way],
                marker=marker,
                color=colour,
                label=f"{way} projection",
            )
            if way == "learned":
                for row in of_way:
                    axes.annotate(
                        row["rank"],
                        (row["cost"], row["error"]),
                        xytext=(0, -13),
                        textcoords="offset points",
                        ha="center",
                        fontsize=7,
                    )
        axes.set(title=name, xlabel="time, softmax attention = 1", ylabel="relative squared error")
        axes.set_ylim(0, 1.08 * max(row["error"] for row in rows if row["stream"] == name))
        axes.title.set_fontsize(10)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, title="numbers: rank of the slope", title_fontsize=8)
    figure.savefig(file, metadata={"Software": None})


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    rows = measure()
    (folder / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    (folder / "README.md").write_text(
        f"# Accuracy and cost of the rank of a slope\n\n![Error against time](figure.png)\n\n"
        f"{NOTE}\n\n{table(rows)}"
    )
    draw(rows, folder / "figure.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
