"""Loads a user's Python file that defines memories. It is executed only if named on the command line."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType

from ttr.experiments.errors import UserError
from ttr.layer.architecture import Architecture
from ttr.problem import Problem


def load_memories(path: Path) -> dict[str, Problem | Architecture]:
    """Execute a Python file and return its ``memory`` (under the file's name) or its ``memories`` {name:
    memory}.

    Raises:
        UserError: if the file is missing, fails, or defines neither.
    """
    module = _execute(path)
    found = (
        module.memories
        if hasattr(module, "memories")
        else {path.stem: module.memory}
        if hasattr(module, "memory")
        else {}
    )
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise UserError(
            f"`memories` in {path} is not a dict with names as keys. Write memories = "
            f'{{"name": ttr.Problem(...)}}.'
        )
    wrong = [name for name, m in found.items() if not isinstance(m, Problem | Architecture)]
    if not found or wrong:
        error_message = (
            f"{', '.join(wrong)} in {path} is neither a Problem nor an Architecture"
            if wrong
            else (f"{path} defines no memory")
        )
        raise UserError(
            f"{error_message}. Write memory = ttr.Problem(weights=..., function=..., solver=...), or "
            f'memories = {{"name": ttr.Problem(...)}}.'
        )
    for name in found:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            raise UserError(
                f"{name!r} in {path} cannot name a memory. Use at most 64 letters, digits, '-', '_' and '.'."
            )
    return dict(found)


def _execute(path: Path) -> ModuleType:
    if path.suffix != ".py" or not os.path.isfile(path):
        raise UserError(f"There is no Python file {path}. Name a .py file that defines `memory`.")
    spec = importlib.util.spec_from_file_location(f"ttr_user_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # any error of the user's file is reported to the user
        raise UserError(
            f"{path} could not be run ({type(error).__name__}: {error}). Correct it and try again."
        ) from error
    return module
