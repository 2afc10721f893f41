"""The possible changes in a file: operators, signs, comparisons, constants. They are found by tokens, in
Python and C alike."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src" / "ttr"
SWAPS = {
    "+": "-",
    "-": "+",
    "*": "/",
    "/": "*",
    "+=": "-=",
    "-=": "+=",
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "==": "!=",
    "!=": "==",
    "and": "or",
    "or": "and",
    "&&": "||",
    "||": "&&",
    "not": "",
    "True": "False",
    "False": "True",
    "min": "max",
    "max": "min",
    "amin": "amax",
    "amax": "amin",
    "minimum": "maximum",
    "maximum": "minimum",
}
STRING = r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''
TEXT = {True: rf'#.*|"""[\s\S]*?"""|{STRING}', False: rf"//.*|/\*[\s\S]*?\*/|^[ \t]*#(?:.*\\\n)*.*|{STRING}"}
"""Comments, strings and preprocessor directives, of Python and of C."""
TOKEN = r"[A-Za-z_]\w*|\d[\w.]*|->|\+\+|--|\*\*|//|<<|>>|[-+*/<>=!]=|&&|\|\||[-+*/<>]"
NOT_COMPUTING = {"examples", "formulas", "formula", "extra_repr", "__repr__"}
"""Functions that describe the code, or make cases for the tests."""


@dataclass(frozen=True)
class Mutant:
    """A file of the package, by its path in it, with the text ``old`` at ``start`` replaced."""

    file: str
    start: int
    old: str
    new: str

    @property
    def python(self) -> bool:
        return self.file.endswith(".py")

    def text(self) -> str:
        """The file with the fault."""
        text = (PACKAGE / self.file).read_text()
        return text[: self.start] + self.new + text[self.start + len(self.old) :]

    def diff(self) -> str:
        before, after = (PACKAGE / self.file).read_text(), self.text()
        return "\n".join(
            difflib.unified_diff(
                before.splitlines(), after.splitlines(), self.file, self.file, n=1, lineterm=""
            )
        )


def mutants(file: str) -> Iterator[Mutant]:
    """Every change of a Python file that is still valid Python; changes of C are left to the compiler."""
    text, python = (PACKAGE / file).read_text(), file.endswith(".py")
    tree = ast.walk(ast.parse(text)) if python else ()
    left_out = {
        line
        for node in tree
        if getattr(node, "name", "") in NOT_COMPUTING
        for line in range(node.lineno, node.end_lineno + 1)
    }
    for match in re.finditer(rf"(?:{TEXT[python]})|(?P<token>{TOKEN})", text, re.MULTILINE):
        token = match["token"]
        new = None if token is None else f"({token} + 1)" if token[0].isdigit() else SWAPS.get(token)
        # of a pointer, a signature or a call
        star = token == "*" and text[match.start() - 1 : match.end() + 1] != " * "
        if new is None or star or text.count("\n", 0, match.start()) + 1 in left_out:
            continue
        mutant = Mutant(file, match.start(), token, new)
        if not python or _is_python(mutant.text()):
            yield mutant


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True
