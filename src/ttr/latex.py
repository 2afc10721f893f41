"""From the plain formulas of the components to LaTeX: ``latex("S_t = a_t S_{t-1} + k_t v_t^T")``.

Plain formulas are one line of ASCII: x_t and x_{t-1}, x^T, x^2 and gamma_i^(t), sum_{i<=t} and prod_{i<j<=t},
Greek letters by name, ||x||, juxtaposition or x.y for products, x * y entry by entry, controls by name, and
words where they are clearer.
"""

from __future__ import annotations

import re

from ttr.controls import CONTROLS

GREEK = {
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "eps",
    "zeta",
    "eta",
    "theta",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "pi",
    "rho",
    "sigma",
    "tau",
    "phi",
    "chi",
    "psi",
    "omega",
    "Gamma",
    "Delta",
    "Theta",
    "Lambda",
    "Xi",
    "Pi",
    "Sigma",
    "Phi",
    "Psi",
    "Omega",
}
FUNCTIONS = {"exp", "log", "ln", "max", "min", "sin", "cos", "tanh", "det", "sum", "prod"}
OPERATORS = {
    "argmin",
    "argmax",
    "diag",
    "tr",
    "sign",
    "softmax",
    "sigmoid",
    "softplus",
    "gelu",
    "silu",
    "elu",
    "grad",
    "Re",
    "LN",
    "NS",
}
ACCENTS = {"bar": r"\bar", "hat": r"\hat", "~": r"\tilde"}
SIGNS = {
    "<=": r"\leq",
    ">=": r"\geq",
    "!=": r"\neq",
    "<-": r"\leftarrow",
    "->": r"\rightarrow",
    "||": r"\Vert",
    "...": r"\ldots",
    "..": r"\ldots",
    "*": r"\odot",
    "{": r"\{",
    "}": r"\}",
    "~": r"\sim",
    "%": r"\%",
    "#": r"\#",
    "&": r"\&",
    "$": r"\$",
    "inf": r"\infty",
}

_TOKENS = (
    r"(?P<name>(?:{names})(?![A-Za-z]))|(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?)|(?P<word>[A-Za-z]+~?)"
    r"|(?P<sign><=|>=|!=|<-|->|\|\||\.\.\.|\.\.|\S)|(?P<space>\s+)"
)
"""The pattern of a token, for the names of the controls."""


def latex(formula: str) -> str:
    """The formula as LaTeX mathematics, without dollar signs; braces are balanced for any input."""
    return _Reader(formula).sequence()


class _Reader:
    """The tokens of one formula, (kind, text) each, read once from left to right."""

    def __init__(self, formula: str) -> None:
        pattern = _TOKENS.replace("{names}", "|".join(sorted(CONTROLS, key=len, reverse=True)))
        self.tokens = [(match.lastgroup, match.group()) for match in re.finditer(pattern, formula)]
        self.at = 0

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        here = self.at + ahead
        return self.tokens[here] if here < len(self.tokens) else ("end", "")

    def sequence(self, closing: str = "") -> str:
        """Everything up to and including the bracket ``closing``, or to the end."""
        parts: list[str] = []
        while self.peek()[0] != "end":
            kind, text = self.peek()
            if closing and text == closing:
                self.at += 1
                break
            if text in ("_", "^"):
                parts.append(self.script())
            elif kind == "word" and _plain(text) and self.peek(1)[1] != "(":
                parts.append(self.words())
            else:
                parts.append(self.atom())
        return re.sub(" +", " ", "".join(parts)).strip()

    def words(self) -> str:
        """Consecutive words of plain English, as one text."""
        found = []
        while (
            self.peek()[0] == "space"
            or self.peek()[0] == "word"
            and self.peek(1)[1] not in ("(", "_")
            and (_plain(self.peek()[1]) or found and self.peek()[1] == "a" and _plain(self.peek(2)[1]))
        ):
            found.append(self.peek()[1])
            self.at += 1
        if not found:  # a word with an index is a name
            return self.atom()
        text = "".join(found)
        before, after = " " * (self.peek()[1] not in ("_", "^")), " " * text.endswith(" ")
        return rf"\text{{{before}{text.strip()}{after}}}"

    def atom(self) -> str:
        """One symbol, number or name, or a square root with its bracket."""
        kind, text = self.peek()
        self.at += 1
        if text == "sqrt" and self.peek()[1] == "(":
            self.at += 1
            return rf"\sqrt{{{self.sequence(')')}}}"
        if kind == "name":
            return rf"\mathrm{{{text.replace('_', chr(92) + '_')}}}"
        if kind == "number":
            digits, _, power = text.partition("e")
            return (
                (("" if digits == "1" else rf"{digits} \cdot ") + f"10^{{{int(power)}}}") if power else digits
            )
        if kind == "word":
            return _symbol(text, called=self.peek()[1] == "(")
        if text == "." and self.peek()[0] in ("word", "name"):
            return r"\cdot "
        if kind == "space":
            return " "
        return f"{SIGNS[text]} " if text in SIGNS else text

    def script(self) -> str:
        """An index or exponent with its argument in braces; a bracket around it is removed, unless it marks a
        token, as in gamma_i^(t)."""
        mark, base = self.peek()[1], "".join(text for _, text in self.tokens[max(self.at - 3, 0) : self.at])
        self.at += 1
        sign = ""
        if self.peek()[1] in ("-", "+"):
            sign = self.peek()[1]
            self.at += 1
        kind, text = self.peek()
        if text == "{":
            self.at += 1
            return f"{mark}{{{sign}{self.sequence('}')}}}"
        if text == "(":
            self.at += 1
            inner = self.sequence(")")
            bracketed = mark == "^" and (sign or len(inner) == 1 or "gamma" in base)
            return f"{mark}{{{sign}({inner})}}" if bracketed else f"{mark}{{{inner}}}"
        if text == "T" and mark == "^":
            self.at += 1
            return r"^{\top}"
        if text == "*":
            self.at += 1
            return f"{mark}{{*}}"
        if kind in ("end", "space") or text in ("_", "^", ")", "}"):
            return ""
        if kind == "word" and _plain(text):
            self.at += 1
            return rf"{mark}{{{sign}\mathrm{{{text}}}}}"
        return f"{mark}{{{sign}{self.atom().strip()}}}"


def _plain(word: str) -> bool:
    """Whether a word is English: neither a letter or two nor the name of a symbol or function."""
    known = word in GREEK or word in FUNCTIONS or word in OPERATORS or word in SIGNS or word == "sqrt"
    small = ("in", "of", "or", "if", "at", "to", "on", "by", "so", "is", "no", "as", "go")
    return not known and _accent(word) is None and (len(word) > 2 or word in small)


def _accent(word: str) -> tuple[str, str] | None:
    """The accent and the letter of a word such as kbar or S~."""
    for name, accent in ACCENTS.items():
        stem = word.removesuffix(name)
        if stem != word and (len(stem) == 1 or stem in GREEK):
            return accent, stem
    return None


def _symbol(word: str, called: bool) -> str:
    accented = _accent(word)
    if accented is not None:
        return rf"{accented[0]}{{{_symbol(accented[1], False).strip()}}}"
    if word in GREEK:
        return rf"\{'epsilon' if word == 'eps' else word} "
    if word in FUNCTIONS:
        return rf"\{word} "
    if word in OPERATORS or called and len(word) > 1:
        return rf"\operatorname{{{word}}}"
    if word in SIGNS:
        return f"{SIGNS[word]} "
    return word if len(word) <= 2 else rf"\mathrm{{{word}}}"
