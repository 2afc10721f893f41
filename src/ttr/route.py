"""The route of a call: the files that it passes, read from the code."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
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
ENDS = ("finish", "final_state")
"""The methods of a form that compute the state of the call from the engine's results."""


def route(problem: Problem, engine: Engine) -> tuple[tuple[str, str], ...]:
    """(what happens, in which file) for a call that the engine runs, in order."""
    return tuple(dict.fromkeys(_passed(problem, engine)))


def file_of(cls: type) -> str:
    """The file that defines a class."""
    return _file(_home(cls))


def _passed(problem: Problem, engine: Engine) -> Iterator[tuple[str, str]]:
    yield "dispatch: which engine", _file(dispatch)
    yield "prepare: every check, the working dtype, the log decay", _file(prepare)
    for axis in ("function", "solver", "weights"):
        for part in _parts(getattr(problem, axis)):
            yield f"{axis}: {type(part).__name__}", _file(_home(type(part)))
    own = {_home(each) for each in type(engine).__mro__ if issubclass(each, Engine)} - {_home(Engine)}
    called = set().union(*map(_called, own))
    used = _used(own)
    lowered = typing.get_type_hints(Problem.lower)["return"]
    forms = {value for module in own for value in vars(module).values() if _of_forms(value)}
    forms |= {lowered} if Problem.lower.__name__ in called else set()
    homes = {_home(each) for each in forms if inspect.isclass(each)}
    for module in _sorted(homes):
        yield "form: what the problem becomes", _file(module)
    for module in _sorted({_home(each) for each in forms} - homes):
        yield "form: arithmetic shared with others", _file(module)
    yield f"engine: {engine.name}", _file(_home(type(engine)))
    for module in _sorted(used - {_home(Engine), _home(type(engine)), steps}):
        yield "engine: what it is made of", _file(module)
    ends = [each for each in forms for end in ENDS if end in called and hasattr(each, end)]
    yield "finish: read-outs and state of the call", _file(_home(ends[0] if ends else State))
    if problem.memory in steps.STEPS:
        yield "a single token", _file(_home(steps.STEPS[problem.memory]))


def _parts(component: Component) -> Iterator[Component]:
    """A component and the components in its fields: features, factors, losses."""
    yield component
    for field in dataclasses.fields(component):
        value = getattr(component, field.name)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Component):
                yield from _parts(each)


def _used(modules: set[ModuleType]) -> set[ModuleType]:
    """The modules of engines whose functions and classes are in the namespaces of ``modules``."""
    values = [value for module in modules for value in vars(module).values()]
    names = {v.__name__ if isinstance(v, ModuleType) else getattr(v, "__module__", None) for v in values}
    return {sys.modules[n] for n in names if str(n).startswith("ttr.engines.") and n in sys.modules}


def _of_forms(value: object) -> bool:
    return str(getattr(value, "__module__", "")).startswith("ttr.forms.")


def _called(module: ModuleType) -> set[str]:
    """The names that the functions and methods of a module call or read."""
    own = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
    methods = [value for cls in own if inspect.isclass(cls) for value in vars(cls).values()]
    return {name for f in (*own, *methods) if inspect.isfunction(f) for name in f.__code__.co_names}


def _sorted(modules: set[ModuleType]) -> list[ModuleType]:
    return sorted(modules, key=lambda module: module.__name__)


def _home(thing: object) -> ModuleType:
    return sys.modules[thing.__module__]


def _file(module: ModuleType) -> str:
    """The file of a module, relative to the folder that contains the package if it is in the package."""
    path = Path(inspect.getsourcefile(module))
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
