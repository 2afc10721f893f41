"""Every entry of the catalogue against softmax attention by torch, at the gates of a fresh layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import ttr
from ttr.experiments.bench.cases import Direction, Family, Shape
from ttr.experiments.bench.contestants import Call, Contestant, Tensors
from ttr.experiments.bench.report import duration
from ttr.experiments.bench.results import Figures
from ttr.layer.sequences import Sequences
from ttr.nn import Mixer

SHAPE = Shape(1, 1024, 4, 64, 64)
SMALLER = {
    "atlas": (
        Shape(1, 64, 4, 16, 16),
        "at 64 channels a head has 4.7 million weights, 57 MB of state, and orthogonalises them in 0.3 TFLOP "
        "at every token",
    ),
    "local-quadratic-attention": (
        Shape(1, 128, 4, 16, 16),
        "a quadratic of 64 variables has 2,144 coefficients, solved for every token",
    ),
}
"""Entries that are measured at a smaller shape, and why."""

ATTENTION = "attention by torch"


@dataclass(frozen=True, eq=False, kw_only=True)
class Entries(Family):
    """One entry of the catalogue, with the q, k, v, controls and parameters that its own layer makes."""

    entry: str

    def ours(
        self, direction: Direction, engines: tuple[str, ...], x: Tensors | None = None
    ) -> tuple[Contestant, ...]:
        problem = ttr.catalogue[self.entry].problem

        def prepared(x: Tensors) -> Call:
            given = {name: x[name] for name in ("q", "k", "v", *problem.controls())}
            params = {name.removeprefix("param "): t for name, t in x.items() if name.startswith("param ")}
            return Call(lambda: ttr.regress(problem, params=params, **given), given)

        return (Contestant("ttr", "ours", prepared, compared=False),)


def _attention(x: Tensors) -> Call:
    q, k, v = (x[name] if x[name].ndim == 4 else x[name][:, :, 0] for name in ("q", "k", "v"))
    heads = max(t.shape[2] for t in (q, k, v))
    size = SHAPE.key if q.shape[1] == SHAPE.time else q.shape[-1]
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(q.shape[0], heads, q.shape[1], size, generator=generator) for _ in range(3)]
    leaves = dict(zip(("its q", "its k", "its v"), (t.requires_grad_(x["q"].requires_grad) for t in drawn)))
    return Call(lambda: scaled_dot_product_attention(*leaves.values(), is_causal=True), leaves)


def _draw(entry: str) -> Callable[[Shape, torch.Generator], dict[str, Tensor]]:
    """The inputs of the memory, as a fresh layer makes them of noise."""

    def draw(shape: Shape, generator: torch.Generator) -> dict[str, Tensor]:
        width = shape.heads * shape.key
        with torch.random.fork_rng():
            torch.manual_seed(generator.initial_seed())
            mixer = Mixer(width, ttr.catalogue[entry], heads=shape.heads)
            x = torch.randn(shape.batch, shape.time, width)
        with torch.no_grad():
            state = mixer.initial_state(shape.batch)
            tails = {name: state[name] for name in mixer.tails()}
            streams, _ = mixer.project(x, Sequences(shape.time, state.position), tails)
        names = ("q", "k", "v", *mixer.problem.controls())
        params = {f"param {name}": t.detach().clone() for name, t in mixer.memory().items()}
        return {name: streams[name].detach().clone() for name in names} | params

    return draw


def _family(entry: str) -> Entries:
    shape, _ = SMALLER.get(entry, (SHAPE, ""))
    causal = ttr.catalogue[entry].problem.function.causal
    peer = Contestant(ATTENTION, "peer", _attention, compared=False)
    return Entries(
        name=f"catalogue.{entry}",
        words=f"{entry}, at the gates of a fresh layer{'' if causal else ', not causal'}",
        draw=_draw(entry),
        peers=dict.fromkeys(("forward", "training"), (peer,)),
        shapes=dict.fromkeys(("forward", "training"), (shape,)),
        entry=entry,
        on_request=True,
    )


ENTRIES = tuple(map(_family, ttr.catalogue))


def page(cases: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> str | None:
    """The cases of the catalogue as a page of markdown, slowest first; None without any."""
    rows: dict[str, dict[str, tuple[float, float]]] = {}
    shapes: dict[str, str] = {}
    for case in cases:
        if not case["family"].startswith("catalogue."):
            continue
        figures, name = Figures(case), case["family"].removeprefix("catalogue.")
        if {row["name"] for row in figures.timed} == {"ttr", ATTENTION}:
            seconds = figures.cpu("ttr")["median"]
            rows.setdefault(name, {})[case["direction"]] = seconds, figures.cpu(ATTENTION)["median"]
            shapes[name] = Shape(**case["shape"]).label
    if not rows:
        return None
    usual = SHAPE.label

    def cells(found: tuple[float, float] | None) -> tuple[str, str]:
        return ("-", "-") if found is None else (f"{found[0] / found[1]:.2f}", duration(found[0]))

    lines = [
        "# Every memory of the catalogue against attention",
        "",
        f"CPU time of `ttr.regress` on one thread, over that of torch's causal attention in the same rounds, "
        f"at {usual}, with the gates of a fresh layer. Written by `ttr bench catalogue` on "
        f"{machine['processor']}.",
        "",
        "| memory | forward, x attention | time | with gradients, x attention | time |",
        "|---|---|---|---|---|",
    ]
    order = sorted(rows, key=lambda name: -max(a / b for a, b in rows[name].values()))
    for name in order:
        label = name if shapes[name] == usual else f"{name} ({shapes[name]})"
        forward, training = (cells(rows[name].get(way)) for way in ("forward", "training"))
        lines.append(f"| {label} | {' | '.join((*forward, *training))} |")
    why = [
        f"- {name} is measured at {shapes[name]}: {SMALLER[name][1]}." for name in order if name in SMALLER
    ]
    return "\n".join(lines + ["", *why] * bool(why)) + "\n"
