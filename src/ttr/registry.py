"""Finds the members of every axis: one public class per file, by walking the axis folders."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from types import ModuleType

AXES = ("weights", "functions", "functions.features", "solvers", "solvers.losses", "solvers.maps")
PARTS = ("layer.qkv", "layer.gates", "layer.output")

CLASSES: dict[tuple[str, str], type] = {}
"""(kind, name) -> class; every class of a component registers itself here when it is defined."""


@functools.cache
def discover(packages: tuple[str, ...] = AXES + PARTS) -> None:
    """Import every file of the axis folders, which registers the classes in them."""
    for package in packages:
        _import_files(f"ttr.{package}")


def members(kind: str) -> tuple[type, ...]:
    """All classes of a kind ("weights", "feature", "function", "solver", "gate", ...), by name."""
    discover()
    return tuple(cls for (k, _), cls in sorted(CLASSES.items()) if k == kind)


def find(kind: str, name: str) -> type | None:
    """The class of that kind and name; None if there is none."""
    discover()
    return CLASSES.get((kind, name))


def exports(package: str, *folders: str) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package: the public classes of its files, and of the files in
    ``folders``, imported at their first use."""

    def classes() -> dict[str, type]:
        files = [
            file for folder in ("", *folders) for file in _import_files(f"{package}.{folder}".strip("."))
        ]
        return {
            name: value
            for file in files
            for name, value in vars(file).items()
            if inspect.isclass(value) and value.__module__ == file.__name__ and not name.startswith("_")
        }

    def get(name: str) -> object:
        found = {} if name.startswith("_") else classes()
        if name not in found:
            known = f"It has {', '.join(sorted(found))}." if found else ""
            raise AttributeError(f"module {package!r} has no attribute {name!r}. {known}".strip())
        return found[name]

    return get, lambda: sorted(classes())


def _import_files(package: str) -> list[ModuleType]:
    """The public files of a package, imported."""
    modules = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return [
        importlib.import_module(f"{package}.{module.name}")
        for module in modules
        if not module.ispkg and not module.name.startswith("_")
    ]
