"""The base class of weights, functions, solvers and the parts of a layer: frozen descriptions without
tensors."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ttr import registry


@dataclass(frozen=True)
class Parameter:
    """A tensor that a component owns, one per layer: its shape and its initialiser."""

    shape: tuple[int, ...]
    init: Callable[[tuple[int, ...], torch.Generator | None], Tensor]
    trainable: bool = True

    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        """A fresh tensor of torch's default dtype on its default device.

        Half-precision numbers are drawn in float32 and rounded, since torch has no QR in half precision. On
        the meta device nothing is computed: the numbers are loaded later, and under transformers some
        functions of torch would return tensors on the CPU.
        """
        like = torch.empty(self.shape)
        if like.is_meta:
            return like
        torch.set_default_dtype(torch.promote_types(like.dtype, torch.float32))
        try:
            return self.init(self.shape, generator).to(like.dtype)
        finally:
            torch.set_default_dtype(like.dtype)


class Matrix(Parameter):
    """A linear map from the last axis of its shape to the others, which a part applies by
    ``ttr.layer.part.linear``: in a layer it is an ``nn.Linear``, which adapters and quantisers find."""


def constant(value: float) -> Callable[[tuple[int, ...], torch.Generator | None], Tensor]:
    """An initialiser that fills with ``value``."""
    return lambda shape, generator: torch.full(shape, float(value))


def normal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """An initialiser that draws normal numbers of mean 0 and variance 1."""
    return torch.randn(shape, generator=generator)


def axis_params(params: Mapping[str, Tensor], axis: str) -> dict[str, Tensor]:
    """The params of one axis ("weights", "function", "solver"), without the prefix."""
    return {name.split(".", 1)[1]: value for name, value in params.items() if name.startswith(axis + ".")}


class Component:
    """A member of an axis: a frozen dataclass, hashable, made of numbers, strings and other components.

    A new member is one file in its axis folder: the class with ``examples()``, small instances on which the
    laws are checked. Its hand-worked cases are in the tests under the same name.
    """

    kind: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__repr__ = Component.__repr__  # in the class itself, so that dataclass does not replace it
        if "__post_init__" in cls.__dict__:  # which may assume that the fields have their types
            cls.__post_init__ = _after(Component.__post_init__, cls.__post_init__)
        # an axis defines its kind, a member inherits it
        if "kind" not in cls.__dict__ and not cls.__name__.startswith("_"):
            registry.CLASSES[cls.kind, cls.__name__] = cls

    def __post_init__(self) -> None:
        """Check the types of the fields, except in compiled code: torch cannot trace the check.

        Raises:
            ValueError: if a field has another type, or is not a finite number.
        """
        if torch.compiler.is_compiling():
            return
        for name, kind in _field_types(type(self)).items():
            if not _is_a(getattr(self, name), kind):
                raise ValueError(
                    f"{type(self).__name__}({name}={getattr(self, name)!r}) is not possible. "
                    f"Use {_in_words(kind)} for {name}."
                )

    def __repr__(self) -> str:
        """The class and the fields that differ from their defaults."""
        changed = [f for f in dataclasses.fields(self) if getattr(self, f.name) != _default(f)]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in changed)})"

    def controls(self) -> dict[str, str]:
        """The controls this component needs: name -> axes, e.g. ``{"log_decay": "BTH"}``."""
        return {}

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        """The tensors this component owns in a layer of these sizes."""
        return {}

    def at_layer(self, layer: int, layers: int) -> Component:
        """This component for layer number ``layer``, counted from 0, of ``layers``: itself, unless it depends
        on depth."""
        return self

    def at_heads(self, first: int, heads: int) -> Component:
        """This component for some of ``heads``, from number ``first`` on, counted from 0: itself, unless it
        depends on the number of a head."""
        return self

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        """Small instances that together reach every branch of the class: the cases of the laws."""
        raise NotImplementedError(f"{cls.__name__} needs examples(): add small instances of it to its file")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description; ``from_dict`` inverts it."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"kind": self.kind, "type": type(self).__name__} | {
            name: _pack(value) for name, value in fields.items()
        }

    @staticmethod
    def from_dict(description: Mapping[str, Any]) -> Component:
        """The component described by ``to_dict``.

        Raises:
            ValueError: if no component of that kind and type is known here.
        """
        kind, name = description.get("kind"), description.get("type")
        cls = registry.find(kind, name)
        if cls is None:
            known = sorted(member.__name__ for member in registry.members(kind))
            raise ValueError(
                f"There is no {kind} called {name!r} here. Known: "
                f"{', '.join(known) or 'none'}. Import the file that defines it first."
            )
        fields = {key: _unpack(value) for key, value in description.items() if key not in ("kind", "type")}
        unknown = sorted(set(fields) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(
                f"{name} has no field {', '.join(unknown)}. It has: "
                f"{', '.join(f.name for f in dataclasses.fields(cls)) or 'none'}."
            )
        return cls(**fields)


def _after(first: Callable[[Any], None], then: Callable[[Any], None]) -> Callable[[Any], None]:
    """A function that calls both, one after the other."""

    @functools.wraps(then)
    def both(self: Any) -> None:
        first(self)
        then(self)

    return both


@functools.cache
def _field_types(cls: type[Component]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value has the type of a field; an int is also a float, and a bool is neither."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return any(value == allowed and type(value) is type(allowed) for allowed in arguments)
    if origin in (types.UnionType, typing.Union):
        return any(_is_a(value, argument) for argument in arguments)
    if origin is tuple:
        fits = isinstance(value, tuple) and (arguments[-1] is ... or len(value) == len(arguments))
        return fits and all(
            _is_a(item, arguments[0] if arguments[-1] is ... else arguments[i])
            for i, item in enumerate(value)
        )
    if kind in (int, float):
        number = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind)


def _in_words(kind: Any) -> str:
    """The values that ``_is_a`` accepts, in words."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return (
            f"a tuple, each entry {_in_words(arguments[0])}"
            if arguments[-1] is ...
            else (f"a tuple of {len(arguments)}")
        )
    if origin is not None:
        return " or ".join(map(repr if origin is Literal else _in_words, arguments))
    known = {
        int: "a whole number",
        float: "a finite number",
        bool: "True or False",
        str: "a string",
        types.NoneType: "None",
    }
    return known.get(kind, f"a {kind.__name__}")


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _pack(value: Any) -> Any:
    if isinstance(value, Component):
        return value.to_dict()
    return [_pack(item) for item in value] if isinstance(value, tuple) else value


def _unpack(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Component.from_dict(value)
    return tuple(_unpack(item) for item in value) if isinstance(value, list) else value
