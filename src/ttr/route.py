"""The route of a call: the files that it passes, read from the code."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from ttr import dispatch, prepare
from ttr.component import Component
from ttr.engines.engine import Engine
from ttr.engines.torch import steps
from ttr.problem import Problem
from ttr.state import State

ROOT = Path(__file__).parents[1]


def route(problem: Problem, engine: Engine) -> tuple[tuple[str, str], ...]:
    """(what happens, in which file) for a call that the engine runs, in order."""
    return tuple(dict.fromkeys(_passed(problem, engine)))


def file_of(cls: type) -> str:
    """The file that defines a class."""
    return _file(_home(cls))


def _passed(problem: Problem, engine: Engine) -> Iterator[tuple[str, str]]:
    yield "dispatch: which engine", _file(dispatch)
    yield "prepare: every check, the working dtype, the log decay", _file(prepare)
    yield "problem: what its three components lower themselves to", _file(_home(Problem))
    for axis in ("function", "solver", "weights"):
        for part in _parts(getattr(problem, axis)):
            yield f"{axis}: {type(part).__name__}", _file(_home(type(part)))
    form = _home(problem.form)
    yield f"form: {problem.form.__name__}", _file(form)
    own = {_home(each) for each in type(engine).__mro__ if issubclass(each, Engine)} - {_home(Engine)}
    used = {module for module in _used(own) if module is not form}
    for module in _sorted({module for module in used if _room(module) == "forms"}):
        yield "form: arithmetic shared with others", _file(module)
    yield f"engine: {engine.name}", _file(_home(type(engine)))
    for module in _sorted(used - {_home(Engine), _home(type(engine)), steps}):
        if _room(module) == "engines":
            yield "engine: what it is made of", _file(module)
    ends = problem.form if hasattr(problem.form, "finish") else State
    yield "finish: read-outs and state of the call", _file(_home(ends))
    if problem.form in steps.STEPS:
        yield "a single token", _file(_home(steps.STEPS[problem.form]))


def _parts(component: Component) -> Iterator[Component]:
    """A component and the components in its fields: features, factors, losses."""
    yield component
    for field in dataclasses.fields(component):
        value = getattr(component, field.name)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Component):
                yield from _parts(each)


def _used(modules: set[ModuleType]) -> set[ModuleType]:
    """The modules whose functions and classes these name."""
    values = [value for module in modules for value in vars(module).values()]
    names = {v.__name__ if isinstance(v, ModuleType) else getattr(v, "__module__", None) for v in values}
    return {sys.modules[name] for name in names if name in sys.modules}


def _room(module: ModuleType) -> str:
    """The folder of the package that a module lies in, "forms" of ttr.forms.oja; "" of all others."""
    names = module.__name__.split(".")
    return names[1] if names[0] == "ttr" and len(names) > 2 else ""


def _sorted(modules: set[ModuleType]) -> list[ModuleType]:
    return sorted(modules, key=lambda module: module.__name__)


def _home(thing: object) -> ModuleType:
    return sys.modules[thing.__module__]


def _file(module: ModuleType) -> str:
    """The file of a module, relative to the folder that contains the package if it is in the package."""
    path = Path(inspect.getsourcefile(module))
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
