"""The files that a call passes, read off the code: for who wants to follow one."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from ttr import dispatch, prepare
from ttr.engines.engine import Engine
from ttr.engines.torch.steps import STEPS
from ttr.problem import Problem

ROOT = Path(__file__).parents[1]


def route(problem: Problem, engine: Engine) -> tuple[tuple[str, str], ...]:
    """(what happens, the file where) of a call that the engine runs, in this order."""
    return tuple(dict.fromkeys(_passed(problem, engine)))


def _passed(problem: Problem, engine: Engine) -> Iterator[tuple[str, str]]:
    yield "dispatch: which engine", _file(dispatch)
    yield "prepare: every check, the working dtype, the log decay", _file(prepare)
    home = inspect.getmodule(type(engine))
    for form in sorted(_used(type(engine), "ttr.forms.")):
        yield "form: what the problem becomes", _file(sys.modules[form])
    for axis in ("function", "solver", "weights"):
        part = getattr(problem, axis)
        yield f"{axis}: {type(part).__name__}", _file(inspect.getmodule(type(part)))
    yield f"engine: {engine.name}", _file(home)
    for other in sorted(_used(type(engine), "ttr.engines.") - {home.__name__}):
        yield "engine: what it is made of", _file(sys.modules[other])
    if problem.memory in STEPS:
        yield "a single token", _file(inspect.getmodule(STEPS[problem.memory]))


def _used(kind: type[Engine], prefix: str) -> set[str]:
    """The modules of that prefix whose functions and classes an engine's own modules name."""
    found = set()
    for module in {inspect.getmodule(each) for each in kind.__mro__ if issubclass(each, Engine)}:
        for value in vars(module).values():
            name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(name, str) and name.startswith(prefix) and name in sys.modules:
                found.add(name)
    return found


def _file(module: ModuleType) -> str:
    path = Path(inspect.getsourcefile(module))
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
