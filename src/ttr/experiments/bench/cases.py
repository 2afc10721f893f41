"""What is timed, as data: family x direction x shape."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from ttr import catalogue
from ttr.experiments.bench import peers
from ttr.experiments.bench.contestants import Contestant, Tensors, backends_named, of_backend
from ttr.problem import Problem

Direction = Literal["forward", "training", "decode"]

CHUNK = 64
"""The chunk length at which operations are counted, whatever a contestant uses."""


@dataclass(frozen=True)
class Shape:
    """Batch, tokens, heads, key and value channels of a head."""

    batch: int = 1
    time: int = 512
    heads: int = 8
    key: int = 128
    value: int = 128

    @property
    def label(self) -> str:
        return f"T{self.time}.D{self.key}"


@dataclass(frozen=True, eq=False)
class Family:
    """One function that ours and peers compute.

    Args:
        words: what it is, for a person.
        draw: random inputs [B,T,heads,channels] of a shape, float32, by name.
        flops: operations of one token and head in the forward direction, from the key and value sizes.
        formula: the same in words, for the table and the JSON file.
        shapes: direction -> the shapes that are timed by default.
    """

    name: str
    words: str
    problem: Problem
    draw: Callable[[Shape, torch.Generator], dict[str, Tensor]]
    flops: Callable[[int, int], float]
    formula: str
    peers: tuple[Contestant, ...]
    shapes: Mapping[Direction, tuple[Shape, ...]]

    def ours(self, backends: tuple[str, ...], x: Tensors | None = None) -> tuple[Contestant, ...]:
        """Our rows; if no backends are named, all that do not refuse the problem and, where they are given, the inputs."""
        found = (of_backend(self.problem, backend) for backend in backends_named(backends))
        return tuple(contestant for contestant in found if backends or contestant.missing(x) is None)


@dataclass(frozen=True)
class Case:
    """One family in one direction at one shape."""

    family: Family
    direction: Direction
    shape: Shape

    @property
    def name(self) -> str:
        return f"{self.family.name}.{self.direction}.{self.shape.label}"

    @property
    def curve(self) -> str:
        """What the cases that differ in T alone share."""
        return dataclasses.replace(self, shape=dataclasses.replace(self.shape, time=0)).name

    def inputs(self) -> Tensors:
        """Random inputs, the same for the same case; leaves of autograd in training."""
        generator = torch.Generator().manual_seed(zlib.crc32(self.name.encode()))
        drawn = self.family.draw(self.shape, generator)
        return {name: x.requires_grad_(self.direction == "training") for name, x in drawn.items()}

    @property
    def flops(self) -> float:
        """Operations of one call: those of a token times tokens and heads; training counts three times, a product having two in its derivative."""
        s = self.shape
        passes = 3 if self.direction == "training" else 1
        return passes * s.batch * s.time * s.heads * self.family.flops(s.key, s.value)


def _qkv(s: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    """Queries and keys of length 1, as after the l2 norm of these layers; values of unit variance."""
    q, k = (normalize(torch.randn(s.batch, s.time, s.heads, s.key, generator=generator), dim=-1) for _ in "qk")
    return {"q": q, "k": k, "v": torch.randn(s.batch, s.time, s.heads, s.value, generator=generator)}


def fixed_decay(s: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    """A decay per head that stays the same, exp(-2^(-8 h / H)), h = 1..H (ALiBi's slopes, as MiniMax has them), given at every token."""
    slopes = 2.0 ** (-8 / s.heads * torch.arange(1, s.heads + 1))
    return _qkv(s, generator) | {"log_decay": -slopes.expand(s.batch, s.time, s.heads).clone()}


def gated(s: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    """A decay per head and token, mostly 0.9 to 1, and steps between 0 and 1."""
    drawn = _qkv(s, generator)
    log_decay = logsigmoid(torch.randn(s.batch, s.time, s.heads, generator=generator) + 4)
    return drawn | {"log_decay": log_decay, "step_size": torch.randn(s.batch, s.time, s.heads, generator=generator).sigmoid()}


def gated_channels(s: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    """The same with a decay per key channel."""
    drawn = gated(s, generator)
    return drawn | {"log_decay": logsigmoid(torch.randn(s.batch, s.time, s.heads, s.key, generator=generator) + 4)}


def additive_flops(key: int, value: int) -> float:
    """Scores Q K^T and their product with V, 2 C (K + V); reading S and adding to it, 4 K V."""
    return 2 * CHUNK * (key + value) + 4 * key * value


def delta_flops(key: int, value: int) -> float:
    """The additive form's, and: scores K K^T, 2 C K; substitution, C^2 / 3; the inverse times the errors, 2 C V; the errors' K S, 2 K V."""
    return additive_flops(key, value) + 2 * CHUNK * key + CHUNK**2 / 3 + 2 * CHUNK * value + 2 * key * value


ADDITIVE = "2 C (K + V) + 4 K V per token and head, C = 64"
DELTA = "4 C (K + V) + C^2 / 3 + 6 K V per token and head, C = 64"


def _at(*times: int, key: int = 128) -> tuple[Shape, ...]:
    return tuple(Shape(time=time, key=key, value=key) for time in times)


FAMILIES: tuple[Family, ...] = (
    Family("additive", "a sum of pairs that fades by a decay per head (Mamba-2, RetNet, lightning attention)", catalogue["mamba2"].problem,
           fixed_decay, additive_flops, ADDITIVE, (peers.mamba2, peers.minimax, peers.attention),
           {"forward": _at(512, 4096) + _at(4096, key=64), "training": _at(512, 4096)}),
    Family("gated-delta", "the delta rule with a decay per head (Gated DeltaNet)", catalogue["gated-deltanet"].problem,
           gated, delta_flops, DELTA, (peers.gated_delta,),
           {"forward": _at(512, 4096) + _at(512, 4096, key=64), "training": _at(512, 4096, 8192)}),
    Family("kda", "the delta rule with a decay per key channel (Kimi Delta Attention)", catalogue["kda"].problem,
           gated_channels, delta_flops, DELTA, (peers.kda, peers.kda_recurrent),
           {"forward": _at(512), "training": _at(512)}),
)


def cases(lengths: tuple[int, ...] = ()) -> tuple[Case, ...]:
    """All cases; with ``lengths`` those of whole sequences have these instead of their own, from the shortest on."""

    def shapes(own: tuple[Shape, ...]) -> Iterable[Shape]:
        if not lengths:
            return own
        widest = max(own, key=lambda shape: shape.key)
        return (dataclasses.replace(widest, time=time) for time in sorted(lengths))

    return tuple(Case(family, direction, shape) for family in FAMILIES for direction, own in family.shapes.items() for shape in shapes(own))
