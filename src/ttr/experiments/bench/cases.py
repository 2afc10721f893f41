"""The cases that are timed: a family of equivalent functions, in one direction, at one shape."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ttr.experiments.bench.contestants import (
    Contestant,
    Tensors,
    engines_named,
    of_engine,
    of_engine_decoding,
    of_plan_compiled,
    within_onednn,
)
from ttr.problem import Problem

Direction = Literal["forward", "training", "decode", "generate"]


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
        """A name such as T4096.D128, preceded by the batch and the number of heads if they are not the
        defaults; T is omitted for a single token."""
        usual = Shape()
        sizes = {
            "B": self.batch if self.batch != usual.batch else None,
            "H": self.heads if self.heads != usual.heads else None,
            "T": self.time if self.time > 1 else None,
            "D": self.key,
        }
        return ".".join(f"{letter}{size}" for letter, size in sizes.items() if size is not None)


@dataclass(frozen=True, eq=False, kw_only=True)
class Family:
    """One function that our engines and the peers compute.

    Args:
        words: a description of the function.
        draw: draws random float32 inputs of a shape, by name.
        peers: direction -> other implementations and floors.
        shapes: direction -> the shapes that are timed.
        formula: operations per token and head in words; empty if the function is bound by memory traffic.
        on_request: whether it is timed only if it is named.
    """

    name: str
    words: str
    draw: Callable[[Shape, torch.Generator], dict[str, Tensor]]
    peers: Mapping[Direction, tuple[Contestant, ...]]
    shapes: Mapping[Direction, tuple[Shape, ...]]
    formula: str = ""
    on_request: bool = False

    def ours(
        self, direction: Direction, engines: tuple[str, ...], x: Tensors | None = None
    ) -> tuple[Contestant, ...]:
        """Our rows; only those that run the inputs, if these are given."""
        raise NotImplementedError

    def flops(self, shape: Shape) -> float | None:
        """Operations of one forward call, by the formula."""
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class Memories(Family):
    """A problem of the library; its rows are engines.

    ``token_flops`` gives the operations per token and head from the key and value sizes; None if they depend
    on the data, as in an iterative solver. Only the read-outs of the last of every ``every`` tokens are
    compared and differentiated.
    """

    problem: Problem
    token_flops: Callable[[int, int], float] | None = None
    every: int = 1

    def ours(
        self, direction: Direction, engines: tuple[str, ...], x: Tensors | None = None
    ) -> tuple[Contestant, ...]:
        """If no engines are named, all that do not refuse the problem and the inputs. For decoding, only the
        first of the engines that share their single-token update, and that update compiled."""
        made = of_engine_decoding if direction == "decode" else functools.partial(of_engine, every=self.every)
        found = [(engine, made(self.problem, engine)) for engine in engines_named(engines)]
        if engines:
            return tuple(contestant for _, contestant in found)
        ways: dict[object, Contestant] = {}
        for engine, contestant in found:
            if contestant.missing(x) is None:
                ways.setdefault(type(engine).step if direction == "decode" else engine, contestant)
        compiled = (of_plan_compiled(self.problem),) if direction == "decode" else ()
        return (*ways.values(), *compiled)

    def flops(self, shape: Shape) -> float | None:
        return (
            None
            if self.token_flops is None
            else shape.batch * shape.time * shape.heads * self.token_flops(shape.key, shape.value)
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Parts(Family):
    """Parts of a layer around its memory, which are not computed by engines."""

    contestants: tuple[Contestant, ...]

    def ours(
        self, direction: Direction, engines: tuple[str, ...], x: Tensors | None = None
    ) -> tuple[Contestant, ...]:
        return self.contestants


@dataclass(frozen=True, eq=False, kw_only=True)
class Calls(Parts):
    """Ways to call one memory, among them its kernel alone."""


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
        """The name shared by the cases that differ only in T."""
        return self.shaped(time=0).name

    def shaped(self, **sizes: int) -> Case:
        """The case at a shape that differs in some sizes."""
        return dataclasses.replace(self, shape=dataclasses.replace(self.shape, **sizes))

    def inputs(self) -> Tensors:
        """Random inputs, the same in every call; autograd leaves in training."""
        generator = torch.Generator().manual_seed(zlib.crc32(self.name.encode()))
        drawn = self.family.draw(self.shape, generator)
        training = self.direction == "training"
        return {name: x.requires_grad_(training and x.is_floating_point()) for name, x in drawn.items()}

    def contestants(
        self, engines: tuple[str, ...], onednn: bool, x: Tensors | None = None
    ) -> tuple[Contestant, ...]:
        """All rows, or only those that run the inputs if these are given: ours, then peers and floors; with
        ``onednn`` all of them again through oneDNN."""
        found = (*self.family.ours(self.direction, engines, x), *self.family.peers[self.direction])
        return (
            found
            if not onednn
            else (*found, *(within_onednn(each) for each in found if each.side != "floor"))
        )

    @property
    def flops(self) -> float | None:
        """Operations of one call; training counts three times, because the derivative of a product has two.
        None for a decoded token, whose time is that of moving the state."""
        forward = None if self.direction == "decode" else self.family.flops(self.shape)
        return forward if forward is None or self.direction == "forward" else 3 * forward


def cases(families: tuple[Family, ...], lengths: tuple[int, ...] = ()) -> tuple[Case, ...]:
    """All cases; with ``lengths`` the cases of whole sequences have these lengths, in rising order, at their
    widest shape."""
    found = []
    for family in families:
        for direction, own in family.shapes.items():
            if lengths and direction != "decode":
                widest = max(own, key=lambda shape: shape.key)
                own = tuple(dataclasses.replace(widest, time=time) for time in sorted(lengths))
            found += [Case(family, direction, shape) for shape in own]
    return tuple(found)
