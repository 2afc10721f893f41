"""The contents of every state: named tensors with a leading batch axis, and the number of tokens seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class StateTensors:
    """The tensors of a state, with the operations that do not depend on their meaning. See ``State``."""

    tensors: Mapping[str, Tensor]
    position: Int[Tensor, " B"]
    capacity: int | None = None

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def map(self, function: Callable[[Tensor], Tensor]) -> StateTensors:
        """The state with ``function`` applied to every tensor but the position."""
        return dataclasses.replace(
            self, tensors={name: function(tensor) for name, tensor in self.tensors.items()}
        )

    def replace(self, **tensors: Tensor) -> StateTensors:
        """The state with some tensors (or ``position``) replaced or added."""
        position = tensors.pop("position", self.position)
        return dataclasses.replace(self, tensors={**self.tensors, **tensors}, position=position)

    def clone(self) -> StateTensors:
        """A copy that shares nothing."""
        return dataclasses.replace(self.map(Tensor.clone), position=self.position.clone())

    def __deepcopy__(self, memo: dict[int, Any]) -> StateTensors:
        """``clone``, since torch cannot deep-copy tensors that are part of a graph."""
        return self.clone()

    def detach(self) -> StateTensors:
        """The same numbers, cut from the graph."""
        return self.map(Tensor.detach)

    def to(self, *args: Any, **kwargs: Any) -> StateTensors:
        """As ``Tensor.to``; the position keeps its integer type."""
        moved = self.map(lambda tensor: tensor.to(*args, **kwargs))
        device = next((t.device for t in moved.tensors.values()), self.position.device)
        return dataclasses.replace(moved, position=self.position.to(device))

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors, without the position."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())
