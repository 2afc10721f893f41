"""Every combination of the components' examples: those that run, their names, and those that are refused and
why."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ttr import catalogue, registry
from ttr.component import Component
from ttr.problem import Function, Problem, Solver, Weights, refusal

NAMED, UNNAMED, REFUSED = "x", "o", "."
LEGEND = f"{NAMED} has a name    {UNNAMED} runs, without a name    {REFUSED} refused, with a reason"


@dataclass(frozen=True)
class Combination:
    """One triple: the names of the layers that equal it up to numbers (a scale, the size of a window), or why
    it is refused."""

    weights: Weights
    function: Function
    solver: Solver
    names: tuple[str, ...]
    refusal: str | None

    @property
    def mark(self) -> str:
        return REFUSED if self.refusal else NAMED if self.names else UNNAMED

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description."""
        axes = {axis: repr(getattr(self, axis)) for axis in ("weights", "function", "solver")}
        return axes | {"names": list(self.names), "refusal": self.refusal}


@dataclass(frozen=True)
class Table:
    """Weights x solvers for functions that combine with the same ones; weights and solvers that never combine
    with them are left out."""

    functions: tuple[Function, ...]
    weights: tuple[Weights, ...]
    solvers: tuple[Solver, ...]
    rows: tuple[str, ...]
    """One per weights: a mark for every solver."""
    names: tuple[tuple[str, tuple[str, ...]], ...]
    """Weights and solver on one line, with the function if there are several, and the names of the
    combination."""

    @property
    def running(self) -> int:
        """How many combinations of the table run."""
        return len(self.functions) * sum(mark != REFUSED for row in self.rows for mark in row)


def brief(component: Component) -> str:
    """A short form of the component: its class and the arguments that differ from the defaults; products as
    factors."""
    if isinstance(getattr(component, "factors", None), tuple):
        return " * ".join(brief(factor) for factor in component.factors)
    changed = [
        f for f in dataclasses.fields(component) if repr(getattr(component, f.name)) != repr(_default(f))
    ]
    words = ", ".join(_field(f.name, getattr(component, f.name)) for f in changed)
    return f"{type(component).__name__}({words})" if words else type(component).__name__


def composition(problem: Problem) -> str:
    """The three choices on one line."""
    return " x ".join(brief(part) for part in (problem.weights, problem.function, problem.solver))


@functools.cache
def combinations() -> tuple[Combination, ...]:
    """Every triple of the components' examples."""
    axes = [
        [example for cls in registry.members(kind) for example in cls.examples()]
        for kind in ("weights", "function", "solver")
    ]
    names: dict[object, list[str]] = {}
    for name, entry in catalogue.items():
        names.setdefault(
            _form(entry.problem.weights, entry.problem.function, entry.problem.solver), []
        ).append(name)
    return tuple(
        Combination(*triple, tuple(names.get(_form(*triple), ())), refusal(*triple))
        for triple in itertools.product(*axes)
    )


def tables() -> tuple[Table, ...]:
    """The combinations as tables, sorted by the number of combinations that run."""
    marks = {(c.weights, c.function, c.solver): c for c in combinations()}
    weights, functions, solvers = (tuple(dict.fromkeys(axis)) for axis in zip(*marks))
    groups: dict[object, list[Function]] = {}
    for f in functions:
        groups.setdefault(tuple(marks[w, f, s].refusal is None for w in weights for s in solvers), []).append(
            f
        )
    patterns = sorted((pattern for pattern in groups if any(pattern)), key=sum, reverse=True)
    return tuple(_table(marks, weights, groups[pattern], solvers) for pattern in patterns)


def refusals() -> list[tuple[str, int]]:
    """Every reason for a refusal, with components named by their axes, and the number of refusals that give
    it."""
    return Counter(_general(c) for c in combinations() if c.refusal).most_common()


def counts() -> dict[str, int]:
    """The number of combinations with each mark, in words."""
    found = Counter(c.mark for c in combinations())
    return {
        "named": found[NAMED],
        "unnamed": found[UNNAMED],
        "refused": found[REFUSED],
        "names": len(catalogue),
    }


def to_dict() -> dict[str, Any]:
    """The counts, the catalogue and all combinations, for machines."""
    named = {
        name: {axis: repr(getattr(entry.problem, axis)) for axis in ("weights", "function", "solver")}
        for name, entry in catalogue.items()
    }
    return {"counts": counts(), "catalogue": named, "combinations": [c.to_dict() for c in combinations()]}


def lines(width: int = 80) -> Iterator[str]:
    """All tables, names and reasons as text, line by line."""
    yield LEGEND
    for table in tables():
        yield ""
        yield from _wrapped(f"{'; '.join(map(brief, table.functions))}: {table.running} run", width, "", "  ")
        letters = [chr(ord("a") + i) if i < 26 else chr(ord("A") + i - 26) for i in range(len(table.solvers))]
        yield from _listed(
            [f"{letter} {brief(solver)}" for letter, solver in zip(letters, table.solvers)], width
        )
        column = max(len(brief(w)) for w in table.weights) + 4
        yield f"{'':{column}s}{' '.join(letters)}"
        yield from (f"  {brief(w):{column - 2}s}{' '.join(row)}" for w, row in zip(table.weights, table.rows))
        for place, names in table.names:
            yield from _wrapped(f"{place}: {', '.join(names)}", width, "    ", "      ")
    yield from ("", "Names of combinations of other instances")
    for name in other_names():
        yield from _wrapped(f"{composition(catalogue[name].problem)}: {name}", width, "    ", "      ")
    yield from ("", "Why the others are refused")
    for reason, count in refusals():
        yield from _wrapped(reason, width, f"  {count:5d}  ", " " * 9)
    yield ""
    yield from _wrapped(summary(), width, "", "")


def other_names() -> list[str]:
    """The names of layers that are not combinations of examples."""
    return sorted(set(catalogue) - {name for c in combinations() for name in c.names})


def summary() -> str:
    """The counts in sentences."""
    found = counts()
    return (
        f"{sum(found.values()) - found['names']} combinations of the components' examples: "
        f"{found['named']} have names, {found['unnamed']} run "
        f"without one, {found['refused']} are refused. A name counts for every combination that equals it "
        f"up to numbers; `ttr list` shows all {found['names']}."
    )


def _table(
    marks: dict[object, Combination],
    weights: Iterable[Weights],
    functions: list[Function],
    solvers: Iterable[Solver],
) -> Table:
    def runs(w: Weights, s: Solver) -> bool:
        return marks[w, functions[0], s].refusal is None

    columns = tuple(s for s in solvers if any(runs(w, s) for w in weights))
    rows = tuple(w for w in weights if any(runs(w, s) for s in columns))
    names = tuple(
        (" x ".join(map(brief, (w, f, s) if len(functions) > 1 else (w, s))), marks[w, f, s].names)
        for f in functions
        for w in rows
        for s in columns
        if marks[w, f, s].mark == NAMED
    )
    cells = tuple(
        "".join(
            min((marks[w, f, s].mark for f in functions), key=f"{NAMED}{UNNAMED}{REFUSED}".index)
            for s in columns
        )
        for w in rows
    )
    return Table(tuple(functions), rows, columns, cells, names)


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _field(name: str, value: object) -> str:
    if isinstance(value, Component):
        return brief(value)
    if isinstance(value, bool):
        return name if value else f"{name}=False"
    if isinstance(value, tuple):
        return f"{len(value)} {name}"
    return value if isinstance(value, str) else f"{name}={value!r}"


def _form(weights: Weights, function: Function, solver: Solver) -> object:
    """A key that triples share if they differ only in numbers; it distinguishes one pair per token from
    several, and functions with different parameters."""
    parameters = frozenset(function.parameters(heads=1, key_size=2, value_size=2))
    return (
        _without_numbers(weights),
        _without_numbers(function),
        parameters,
        _without_numbers(solver),
        solver.pairs_per_token > 1,
    )


def _without_numbers(value: object) -> object:
    if isinstance(value, Component):
        return type(value), tuple(_without_numbers(getattr(value, f.name)) for f in dataclasses.fields(value))
    if isinstance(value, tuple):
        return tuple(map(_without_numbers, value))
    return value if isinstance(value, str | bool) else None


def _general(combination: Combination) -> str:
    """The reason with "the weighting", "the function" and "the solver" in place of the components, in the
    remedy only after "with" and "for"."""
    reason, use, remedy = combination.refusal.partition(" Use ")
    for axis, word in (("weights", "weighting"), ("function", "function"), ("solver", "solver")):
        part = getattr(combination, axis)
        for name in (repr(part), type(part).__name__):
            reason = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", f"the {word}", reason)
            remedy = re.sub(rf"\b(with|for) {re.escape(name)}(?!\w)", rf"\1 the {word}", remedy)
    return reason[:1].upper() + reason[1:] + use + remedy


def _listed(items: list[str], width: int) -> list[str]:
    """Items side by side, wrapped between items only."""
    return [
        line.replace("\0", " ")
        for line in _wrapped("   ".join(item.replace(" ", "\0") for item in items), width, "  ", "  ")
    ]


def _wrapped(text: str, width: int, first: str, others: str) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )
