"""The planted fault."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """Replace ``old`` by ``new`` once in ``file``; the checks of rows that contain ``words`` must fail."""

    file: str
    old: str
    new: str
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.file.removesuffix('.py')}: {' '.join(self.old.split())[:48]} -> "
            f"{' '.join(self.new.split())[:48]}"
        )

    def planted(self, text: str) -> str:
        """The text of the file with the fault, for any layout of ``old`` in it.

        Raises:
            ValueError: if ``old`` does not stand there exactly once.
        """
        found = list(re.finditer(_any_layout(self.old), text))
        if len(found) != 1:
            raise ValueError(f"{self.old!r} stands {len(found)} times in {self.file}; mend the table")
        return text[: found[0].start()] + self.new + text[found[0].end() :]


def _any_layout(code: str) -> str:
    """A pattern for the code with any line breaks, quotes, and commas before closing brackets."""
    tokens = re.findall(r"\w+|[^\w\s]", code)
    pattern = ""
    for before, token in zip(["", *tokens], tokens):
        between = r"\s+" if before[-1:].isalnum() and token[0].isalnum() else r"\s*"
        pattern += (r"\s*,?\s*" if token in ")]}" else between) if before else ""
        pattern += "[\"']" if token in "\"'" else re.escape(token)
    return pattern
