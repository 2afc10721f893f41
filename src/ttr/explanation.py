"""Facts about a memory, in sections, formatted for a terminal or a paper."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from ttr.latex import latex

APPROXIMATE = "How far it is a regression"
TEXT = r"\text{{{}}}"


@dataclass(frozen=True)
class Fact:
    """A title and a text; ``formula`` if the text is a formula for ``ttr.latex``."""

    title: str
    text: str
    formula: bool = False


@dataclass(frozen=True)
class Section:
    """Facts that belong together."""

    title: str
    facts: tuple[Fact, ...]

    def lines(self, width: int) -> Iterator[str]:
        """The facts in two columns; a title too long for its column has the text below it."""
        column = min(max(len(fact.title) for fact in self.facts), 25) + 4
        yield self.title
        for fact in self.facts:
            head = f"  {fact.title}".ljust(column)
            if len(head) > column:
                yield head
                head = " " * column
            yield textwrap.fill(
                fact.text,
                width,
                initial_indent=head,
                subsequent_indent=" " * column,
                break_long_words=False,
                break_on_hyphens=False,
            )


@dataclass(frozen=True)
class Explanation:
    """Facts about a memory, in sections. ``str`` formats them in 80 columns, ``latex`` as LaTeX; ``engine``
    is the name of the engine that runs it, ``refusals`` say why every other does not, ``route`` names the
    files of a call."""

    name: str
    sections: tuple[Section, ...]
    engine: str
    refusals: tuple[tuple[str, str], ...]
    route: tuple[tuple[str, str], ...] = ()

    def facts(self, title: str) -> tuple[str, ...]:
        """The texts of all facts with that title."""
        return tuple(fact.text for section in self.sections for fact in section.facts if fact.title == title)

    def formulas(self) -> dict[str, str]:
        """The formulas by title."""
        return {fact.title: fact.text for section in self.sections for fact in section.facts if fact.formula}

    def __str__(self) -> str:
        blocks = ["\n".join(section.lines(80)) for section in self.sections]
        return "\n\n".join([self.name, *blocks] if self.name else blocks)

    def latex(self) -> str:
        """A description to paste into a paper: the formulas in an ``align*`` (amsmath), the words around
        it."""
        source = "".join(f" {_escape(text)}." for text in self.facts("source"))
        rows = [
            f"  &{TEXT.format(title) if title else ''} && {latex(part)}"
            for name, text in self.formulas().items()
            for title, part in itertools.zip_longest((name,), _clauses(text), fillvalue="")
        ]
        words = [(title, text) for title in ("order", "parallel form") for text in self.facts(title)]
        words += [
            ("approximate", fact.text)
            for section in self.sections
            if section.title == APPROXIMATE
            for fact in section.facts
        ]
        return "\n".join(
            (
                f"\\paragraph{{{_escape(self.name)}}}{source}",
                "\\begin{align*}",
                " \\\\\n".join(rows),
                "\\end{align*}",
                "\\begin{description}",
                *(f"  \\item[{title}] {_escape(text)}" for title, text in words),
                "\\end{description}",
            )
        )


def _clauses(formula: str) -> list[str]:
    """The formula cut at the commas outside its brackets, where it is too long for a line."""
    if len(formula) < 60:
        return [formula]
    depth, parts = 0, [""]
    for character in formula:
        depth += (character in "([{") - (character in ")]}")
        parts[-1] += character
        if character == "," and depth == 0:
            parts.append("")
    return [part.strip() for part in parts]


def _escape(text: str) -> str:
    """Plain text as LaTeX text."""
    special = {
        "\\": r"\textbackslash{}",
        "^": r"\^{}",
        "~": r"\~{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
    }
    return "".join(special.get(c, f"\\{c}" if c in "_&%#${}" else c) for c in text)
