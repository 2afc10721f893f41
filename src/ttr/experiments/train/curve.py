"""The picture of a training run: its losses by step."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ttr.experiments.picture import COLOURS, png, unboxed

Points = Sequence[Sequence[float]]
"""[step, bits per byte] of every point"""


def draw(title: str, training: Points, held_out: Points) -> bytes:
    """The curves as a PNG, with the last held-out loss in numbers."""
    figure = Figure(figsize=(8, 4.5), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(*zip(*training), color=COLOURS[5], linewidth=1, label="training text")
    axes.plot(*zip(*held_out), ".-", color=COLOURS[1], linewidth=1.8, label="held-out text")
    step, bits = held_out[-1]
    axes.annotate(
        f"{bits:.3f}", (step, bits), xytext=(0, 8), textcoords="offset points", ha="right", color=COLOURS[1]
    )
    axes.set_ylim(0.9 * min(bits for _, bits in [*training, *held_out]), None)
    axes.set_xlabel("step")
    axes.set_ylabel("bits per byte")
    axes.set_title(title, fontsize=11, fontweight="bold", loc="left")
    axes.legend(frameon=False)
    unboxed(axes)
    return png(figure)
