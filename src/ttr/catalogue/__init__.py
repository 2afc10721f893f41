"""The named architectures: ``ttr.catalogue["gated-deltanet"]``. Each entry is data; no code depends on its
name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType

from ttr.layer.architecture import Architecture

_FILES = [importlib.import_module(f"{__name__}.{family.name}") for family in pkgutil.iter_modules(__path__)]

ENTRIES: dict[str, Architecture] = {
    name: entry for family in _FILES for name, entry in family.ENTRIES.items()
}
"""All entries; every file of this folder holds one family."""

FAMILIES: dict[str, tuple[str, ...]] = {
    " ".join(family.__doc__.split()).partition(". ")[0].rstrip("."): tuple(family.ENTRIES)
    for family in _FILES
}
"""The families: a description, and the names of their layers."""


class UnknownName(KeyError):
    """A name that is not in the catalogue; the message suggests similar ones."""

    def __str__(self) -> str:
        return self.args[0]


class _Catalogue(ModuleType, Mapping):
    """This module as the mapping of its entries."""

    def __getitem__(self, name: str) -> Architecture:
        if name not in ENTRIES:
            close = difflib.get_close_matches(str(name), ENTRIES, n=3, cutoff=0.4)
            hint = f"Did you mean {' or '.join(close)}?" if close else "ttr list shows the names."
            raise UnknownName(f"There is no memory called {name!r} in the catalogue. {hint}")
        return ENTRIES[name]

    def __iter__(self) -> Iterator[str]:
        return iter(ENTRIES)

    def __len__(self) -> int:
        return len(ENTRIES)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


sys.modules[__name__].__class__ = _Catalogue
