"""Finds the members of every axis: one public class per file, by walking the axis folders."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable

AXES = ("weights", "functions", "functions.features", "solvers", "solvers.losses", "solvers.maps")
SURROUNDINGS = ("surroundings.keys", "surroundings.controls", "surroundings.output")

CLASSES: dict[tuple[str, str], type] = {}
"""(kind, name) -> class; every class of a component puts itself here when it is defined."""


@functools.cache
def discover(packages: tuple[str, ...] = AXES + SURROUNDINGS) -> None:
    """Import every file of the axis folders, which registers the classes in them."""
    for package in packages:
        _import_files(f"ttr.{package}")


def members(kind: str) -> tuple[type, ...]:
    """All classes of a kind ("weights", "feature", "function", "solver", "keys", ...), by name."""
    discover()
    return tuple(cls for (k, _), cls in sorted(CLASSES.items()) if k == kind)


def find(kind: str, name: str) -> type | None:
    """The class of that kind and name; None if there is none."""
    discover()
    return CLASSES.get((kind, name))


def exports(package: str) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of an axis folder: its public classes, imported when first asked
    for."""

    def classes() -> dict[str, type]:
        _import_files(package)
        return {
            name: cls for (_, name), cls in CLASSES.items() if cls.__module__.rpartition(".")[0] == package
        }

    def get(name: str) -> object:
        found = {} if name.startswith("_") else classes()
        if name not in found:
            known = f"It has {', '.join(sorted(found))}." if found else ""
            raise AttributeError(f"module {package!r} has no attribute {name!r}. {known}".strip())
        return found[name]

    return get, lambda: sorted(classes())


def _import_files(package: str) -> None:
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not module.ispkg:
            importlib.import_module(f"{package}.{module.name}")
