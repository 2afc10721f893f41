"""The tables of docs/ that are made from the code: ``python -m ttr.documentation docs`` (``make docs``)."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import ttr
from ttr import combinations
from ttr.combinations import brief
from ttr.dispatch import refusal
from ttr.engines import ENGINES
from ttr.explain import APPROXIMATE, SOURCE, explain, state_words


def coverage() -> str:
    """The matrix engine x catalogue: which runs what, and each refusal as a footnote."""
    reasons: list[str] = []
    rows = []
    for name, entry in ttr.catalogue.items():
        cells = []
        for engine in ENGINES:
            reason = refusal(engine, entry.problem)
            if reason is not None and reason not in reasons:
                reasons.append(reason)
            cells.append("runs" if reason is None else f"[{reasons.index(reason) + 1}]")
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    head = f"| entry | {' | '.join(engine.name for engine in ENGINES)} |\n|---|{'---|' * len(ENGINES)}"
    notes = "\n".join(f"{i}. {reason}" for i, reason in enumerate(reasons, 1))
    return (
        f"{_title('Which engine runs which layer')}{head}\n"
        + "\n".join(rows)
        + (f"\n\nWhy an engine refuses:\n\n{notes}\n")
    )


def layers() -> str:
    """The named layers by family: a table of what they are made of, then the formulas, limits and sources of
    each."""
    parts = [
        _title("The named layers"),
        "How formulas are written is said in `ttr.latex`; `ttr explain NAME` tells all of this and more.\n",
    ]
    for family, names in ttr.catalogue.FAMILIES.items():
        rows = [
            f"| [`{name}`](#{name}) | {_choices(name)} | {_kept(name)} | {_compared(name)} |"
            for name in names
        ]
        head = (
            "| layer | weights | function | solver | state | compared with the original "
            "|\n|---|---|---|---|---|---|"
        )
        parts.append(f"## {family}\n\n{head}\n" + "\n".join(rows))
        parts += [_layer(name) for name in names]
    return "\n".join(parts)


def combined() -> str:
    """Every combination of the components' examples: tables of marks, names, and the reasons of the
    refusals."""
    parts = [_title("Combinations"), f"{combinations.summary()}\n\n{combinations.LEGEND}\n"]
    for table in combinations.tables():
        head = (
            "| | "
            + " | ".join(f"`{brief(solver)}`" for solver in table.solvers)
            + " |\n|---|"
            + "---|" * len(table.solvers)
        )
        rows = [
            f"| `{brief(weights)}` | {' | '.join(marks)} |"
            for weights, marks in zip(table.weights, table.rows)
        ]
        names = [
            f"- {place}: {', '.join(f'[`{name}`](layers.md#{name})' for name in found)}"
            for place, found in table.names
        ]
        functions = ", ".join(f"`{brief(function)}`" for function in table.functions)
        body = (
            f"{head}\n" + "\n".join(rows) + "\n" + "".join(f"\n{name}" for name in names) + "\n" * bool(names)
        )
        parts.append(f"## {functions}\n\n{table.running} run.\n\n{body}")
    parts.append("## Names with components that are no examples\n")
    parts += [
        f"- {combinations.composition(ttr.catalogue[name].problem)}: [`{name}`](layers.md#{name})"
        for name in combinations.beside()
    ]
    parts.append("\n## Why the others are refused\n\n| times | reason |\n|---|---|")
    parts += [f"| {count} | {reason} |" for reason, count in combinations.refusals()]
    return "\n".join(parts) + "\n"


def _layer(name: str) -> str:
    """One layer: where it comes from, its formulas, and how far it is a regression."""
    told = explain(ttr.catalogue[name])
    facts = [(section.title, fact) for section in told.sections for fact in section.facts]
    lines = [f"- {fact.title}: {fact.text}" for title, fact in facts if title == SOURCE]
    lines += [f"- {title}: `{formula}`" for title, formula in told.formulas().items()]
    lines += [f"- {title}: {text}" for title in ("order", "parallel form") for text in told.facts(title)]
    limits = [f"- {fact.text}" for title, fact in facts if title == APPROXIMATE]
    return "\n".join((f"\n### {name}\n", *lines, f"\n{APPROXIMATE}:\n", *limits, ""))


def _choices(name: str) -> str:
    problem = ttr.catalogue[name].problem
    return " | ".join(f"`{brief(part)}`" for part in (problem.weights, problem.function, problem.solver))


def _kept(name: str) -> str:
    return state_words(ttr.catalogue[name].problem).partition(";")[0]


def _compared(name: str) -> str:
    """What has been compared, and whether a published module exists."""
    entry = ttr.catalogue[name]
    kinds = " and ".join(dict.fromkeys(re.findall(r"\b(layer|memory)\b(?=[^;]*:)", entry.verified)))
    return f"{kinds or entry.verified}{'' if entry.original else ', by another derivation'}"


def _title(title: str) -> str:
    return f"# {title}\n\nMade by `make docs` from the code; a test keeps it current.\n\n"


PAGES = {"coverage.md": coverage, "layers.md": layers, "combinations.md": combined}

if __name__ == "__main__":
    for page, text in PAGES.items():
        path = Path(sys.argv[1]) / page
        path.write_text(text())
        print(f"wrote {path}")
