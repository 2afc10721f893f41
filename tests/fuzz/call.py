"""One fuzzed call as plain data: everything that was drawn, so that it can be sent to a worker, repeated,
shrunk and printed as Python."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import ttr
from ttr import registry
from ttr.engines import ENGINES
from ttr.engines.engine import Engine
from ttr.laws.rows import triples
from ttr.problem import Problem

AXES = ("weights", "function", "solver")


@dataclass(frozen=True)
class Call:
    """A problem, the route by which the library is called, and everything about the tensors.

    problem: a name of the catalogue, or the examples of the three axes, "Geometric() | Linear() | OneStep()".
    changed: (axis, field, value) of the problem that is replaced before the call.
    tier: the instruction set of the kernels, "torch" for none, "widest" for what runs by itself. entry: a
    route of ``routes.ROUTES``; cuts: how its sequence is split, lengths: the packed sequences, else none.
    groups: heads of q, k, v as divisors of ``heads``.
    dtypes, layouts: (tensor, what) for those that differ from ``dtype`` and from contiguous. values: a kind
    of numbers of ``tensors.VALUES``; wrong: (argument, what is wrong with it).
    mode: a way of ``routes.MODES`` to call; checks: that of ``ttr.checks(values=)``, None outside of it.
    """

    problem: str
    entry: str = "regress"
    engine: str = "auto"
    tier: str = "widest"
    small_blocks: bool = False
    batch: int = 1
    time: int = 3
    heads: int = 1
    key: int = 2
    value: int = 2
    groups: tuple[int, int, int] = (1, 1, 1)
    past: int = 0
    cuts: tuple[int, ...] = ()
    lengths: tuple[int, ...] | None = None
    dtype: str = "float64"
    dtypes: tuple[tuple[str, str], ...] = ()
    layouts: tuple[tuple[str, str], ...] = ()
    values: str = "unit"
    wrong: tuple[str, str] | None = None
    changed: tuple[str, str, object] | None = None
    mode: str = "plain"
    threads: int = 1
    checks: bool | None = None
    seed: int = 0

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)
        given = [f for f in fields if f.default is dataclasses.MISSING or getattr(self, f.name) != f.default]
        return f"Call({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in given)})"

    def code(self) -> str:
        """Python code that repeats the call, from the root of the repository."""
        return f"from tests.fuzz import Call, play\nprint(play({self!r}))"

    def memory(self) -> Problem:
        """The problem, constructed as by a user.

        Raises:
            ValueError: if it cannot be made.
        """
        if self.problem in ttr.catalogue:
            parts = {axis: getattr(ttr.catalogue[self.problem].problem, axis) for axis in AXES}
        else:
            parts = {axis: examples()[axis][name] for axis, name in zip(AXES, self.problem.split(" | "))}
        if self.changed is not None:
            axis, field, value = self.changed
            parts[axis] = dataclasses.replace(parts[axis], **{field: value})
        return Problem(**parts)

    def chosen(self) -> str | Engine:
        """The argument ``engine``."""
        named = {engine.name: engine for engine in ENGINES}
        return named[self.engine].small() if self.small_blocks and self.engine in named else self.engine


@functools.cache
def examples() -> dict[str, dict[str, object]]:
    """The examples of every component by axis and by their repr."""
    kinds = {axis: [example for cls in registry.members(axis) for example in cls.examples()] for axis in AXES}
    return {axis: {repr(example): example for example in found} for axis, found in kinds.items()}


@functools.cache
def combinations() -> tuple[str, ...]:
    """The valid triples of examples."""
    return tuple(" | ".join(repr(getattr(problem, axis)) for axis in AXES) for problem in triples())
