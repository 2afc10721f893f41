"""Lets transformers find the model type ``ttr`` in a process that has not imported ttr.

``import torch`` calls ``install`` through the entry point group ``torch.backends``, which exists so that an
installed extension needs no import of its own. The module stands beside the package because it must cost
nothing where no model of ttr is used: ``ttr.models`` is imported when transformers asks for the model type.
docs/decisions/0012-at-home-in-transformers.md gives the reasons.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

NAMES = "transformers.models.auto.auto_mappings"
"""The module that names the configuration of every model type."""

MODELS = "transformers.models.ttr"
"""Where transformers looks for the classes of the model type ``ttr``."""


class _Names(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        if _there():
            module.CONFIG_MAPPING_NAMES.setdefault("ttr", "TTRConfig")


class _Models(Loader):
    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module("ttr.models")


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name == MODELS and _there():
            return ModuleSpec(name, _Models())
        if name == NAMES:
            spec = PathFinder.find_spec(name, path)
            if spec is not None and type(spec.loader) is SourceFileLoader:
                spec.loader = _Names(spec.loader.name, spec.loader.path)
            return spec
        return None


def _there() -> bool:
    """Whether ttr is still there: who deletes its folder leaves this file and the entry point."""
    spec = importlib.util.find_spec("ttr")
    return spec is not None and spec.origin is not None


def install() -> None:
    """Add the model type ``ttr`` to transformers when it is imported. Nothing is imported now, since what
    fails here would fail ``import torch``."""
    sys.meta_path.insert(0, _Finder())
