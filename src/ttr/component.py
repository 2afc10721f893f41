"""What weights, functions, solvers and surroundings have in common: frozen descriptions that own no tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ttr.problem import Worked


@dataclass(frozen=True)
class Parameter:
    """A tensor that a component owns, one per layer: its shape and how it starts."""

    shape: tuple[int, ...]
    init: Callable[[tuple[int, ...], torch.Generator | None], Tensor]
    trainable: bool = True

    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        """A fresh tensor of torch's default dtype on its default device.

        Narrow numbers are drawn as float32 ones and rounded, since torch has no QR of them. On the meta device nothing is computed: the
        numbers are still to be loaded, and transformers puts what some functions of torch make there on the CPU.
        """
        like = torch.empty(self.shape)
        if like.is_meta:
            return like
        torch.set_default_dtype(torch.promote_types(like.dtype, torch.float32))
        try:
            return self.init(self.shape, generator).to(like.dtype)
        finally:
            torch.set_default_dtype(like.dtype)


def constant(value: float) -> Callable[[tuple[int, ...], torch.Generator | None], Tensor]:
    """The initialiser that fills with ``value``."""
    return lambda shape, generator: torch.full(shape, float(value))


def normal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """The initialiser that draws normal numbers of mean 0 and variance 1."""
    return torch.randn(shape, generator=generator)


class Component:
    """A member of an axis: a frozen dataclass, hashable, made of numbers, strings and other components.

    A new member is one file in its axis folder. It holds the class, ``examples()`` (small instances, which become rows
    of the laws) and ``worked()`` (one case derived by hand in a comment), and nothing else needs an edit.
    """

    kind: ClassVar[str] = ""
    registry: ClassVar[dict[tuple[str, str], type[Component]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__repr__ = Component.__repr__  # in the class itself, so that dataclass keeps it
        if "kind" not in cls.__dict__ and not cls.__name__.startswith("_"):  # an axis states its kind, a member inherits it
            Component.registry[cls.kind, cls.__name__] = cls

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
        """This component as it is in that layer of so many, counted from 0: itself, unless it depends on depth."""
        return self

    @classmethod
    def examples(cls) -> tuple[Component, ...]:
        """Small instances that between them reach every branch of the class: the rows of the laws."""
        raise NotImplementedError(f"{cls.__name__} needs examples(): add small instances of it to its file")

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        """Cases derived by hand in a comment, one per mode: they show a fault that definition and backend share."""
        raise NotImplementedError(f"{cls.__name__} needs worked(): derive one small case by hand in its file")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description; ``from_dict`` inverts it."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"kind": self.kind, "type": type(self).__name__} | {name: _pack(value) for name, value in fields.items()}

    @staticmethod
    def from_dict(description: Mapping[str, Any]) -> Component:
        """The component described by ``to_dict``.

        Raises:
            ValueError: if no component of that kind and type is known here.
        """
        from ttr import registry

        registry.discover()
        kind, name = description.get("kind"), description.get("type")
        cls = Component.registry.get((kind, name))
        if cls is None:
            known = sorted(n for k, n in Component.registry if k == kind)
            raise ValueError(f"There is no {kind} called {name!r} here. Known: {', '.join(known) or 'none'}. Import the file that defines it first.")
        fields = {key: _unpack(value) for key, value in description.items() if key not in ("kind", "type")}
        unknown = sorted(set(fields) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"{name} has no field {', '.join(unknown)}. It has: {', '.join(f.name for f in dataclasses.fields(cls)) or 'none'}.")
        return cls(**fields)


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
