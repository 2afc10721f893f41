"""Finds the members of every axis: one public class per file, by walking the axis folders."""

from __future__ import annotations

import functools
import importlib
import pkgutil

AXES = ("weights", "functions", "functions.features", "solvers", "solvers.losses", "solvers.maps")
SURROUNDINGS = ("surroundings.keys", "surroundings.controls", "surroundings.output")


@functools.cache
def discover(packages: tuple[str, ...] = AXES + SURROUNDINGS) -> None:
    """Import every file of the axis folders, which registers the classes in them."""
    for package in packages:
        folder = importlib.import_module(f"ttr.{package}")
        for module in pkgutil.iter_modules(folder.__path__):
            if not module.ispkg:
                importlib.import_module(f"ttr.{package}.{module.name}")


def members(kind: str) -> tuple[type, ...]:
    """All classes of a kind ("weights", "feature", "function", "solver", "keys", ...), by name."""
    from ttr.component import Component

    discover()
    return tuple(cls for (k, _), cls in sorted(Component.registry.items()) if k == kind)
