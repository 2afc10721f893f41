"""What a planted fault is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """Replace ``old`` by ``new`` once in ``file``; the checks of rows that contain ``words`` must break."""

    file: str
    old: str
    new: str
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.file.removesuffix('.py')}: {' '.join(self.old.split())[:48]} -> {' '.join(self.new.split())[:48]}"
