"""The rows (problem, engine) on which a law is checked: in `make check` every valid triple, in `make test`
enough of them for what the law depends on."""

import functools
from collections.abc import Iterator

import torch

import ttr
from tests.contract.faults import FAULTS
from ttr.dispatch import refusal
from ttr.engines import ENGINES
from ttr.engines.engine import Engine
from ttr.laws import LAWS, Law
from ttr.laws.rows import covering, triples
from ttr.problem import Problem

Row = tuple[Problem, Engine]

NAMED = {ttr.catalogue[name].problem: name for name in ttr.catalogue}
NAMES = {problem: repr(problem) for problem in triples()} | NAMED
FLOAT32_LAWS = (1, 2, 7)
"""The laws that are also checked in float32, since they measure rounding; the others do not depend on the
dtype."""
CALL_LAWS = (12, 13)
"""Laws about how a call is made: they depend on the code that runs, all of which the catalogue reaches."""
PAIR_LAWS = (1,)
"""The most general law, which depends on how two components combine. The other laws depend on each component
by itself, on every engine that can run it."""

FAULTY = {fault.words for fault in FAULTS if not fault.words[:1] or not fault.words[0].startswith("test_")}
"""Words that name the rows on which a planted fault is caught."""


@functools.cache
def rows() -> tuple[Row, ...]:
    """Every problem on every engine that can run it."""
    return tuple(
        (problem, engine) for problem in NAMES for engine in ENGINES if refusal(engine, problem) is None
    )


@functools.cache
def tried(law: Law) -> frozenset[Row]:
    """The rows of a law in `make test`: the catalogue; and those where planted faults are caught and further
    ones, so that each engine runs every example that it can, and law 1 every pair of examples."""
    chosen = {row for row in rows() if row[0] in NAMED}
    if law.number in CALL_LAWS:
        return frozenset(chosen)
    chosen |= _of_faults()
    if law.number in PAIR_LAWS:
        paired = set(covering())
        chosen |= {row for row in rows() if row[0] in paired}
    return frozenset(chosen | _with_every_example(chosen))


def _of_faults() -> set[Row]:
    """The first row for each planted fault."""
    found = (
        next((row for row in rows() if all(word in f"{row[1].name} {row[0]!r}" for word in words)), None)
        for words in FAULTY
    )
    return {row for row in found if row}


def _with_every_example(have: set[Row]) -> set[Row]:
    """Further rows, so that each engine runs every example of a component that it can."""
    met, found = {example for row in have for example in examples(row)}, set()
    # rows on which other laws are checked as well come first
    for row in sorted(rows(), key=lambda row: row[0] not in covering()):
        if not examples(row) <= met:
            met |= examples(row)
            found.add(row)
    return found


def examples(row: Row) -> set[tuple[str, object]]:
    problem, engine = row
    return {(engine.name, part) for part in (problem.weights, problem.function, problem.solver)}


def checks(row: Row, full: bool) -> Iterator[tuple[Law, torch.dtype]]:
    """The laws to check on a row, and their dtypes."""
    for law in (law for law in LAWS if not law.slow and (full or row in tried(law))):
        yield from (
            (law, dtype) for dtype in (torch.float64, torch.float32)[: 1 + (law.number in FLOAT32_LAWS)]
        )
