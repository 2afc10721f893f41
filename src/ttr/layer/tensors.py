"""A module that owns declared tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from ttr.component import Matrix, Parameter

MODULES = {"weight": "proj"}
"""Declared matrix -> the module that holds it, where its name would be that of the tensor in it."""


class Tensors(nn.Module):
    """Declared tensors as parameters and buffers, matrices as linear modules; a dot in a name creates a
    submodule."""

    def __init__(self, declared: Mapping[str, Parameter]) -> None:
        super().__init__()
        self.matrices: dict[str, tuple[str, tuple[int, ...]]] = {}
        inner: dict[str, dict[str, Parameter]] = {}
        for name, spec in declared.items():
            head, dot, rest = name.partition(".")
            if dot:
                inner.setdefault(head, {})[rest] = spec
            elif isinstance(spec, Matrix):
                self.matrices[name] = MODULES.get(name, name), spec.shape[:-1]
                self.add_module(self.matrices[name][0], _linear(spec))
            elif spec.trainable:
                self.register_parameter(name, nn.Parameter(spec.draw()))
            else:
                self.register_buffer(name, spec.draw())
        self.inner = tuple(inner)
        for head, specs in inner.items():
            self.add_module(head, Tensors(specs))

    def forward(self) -> dict[str, Tensor | Callable[[Tensor], Tensor]]:
        """The tensors by their declared names, matrices as the maps x -> W x. Calling the module, like any
        other, lets hooks run first: those of accelerate load tensors that are kept elsewhere."""
        own = {name: tensor for name, tensor in self._parameters.items() if tensor is not None}
        own |= {name: tensor for name, tensor in self._buffers.items() if tensor is not None}
        own |= {
            name: functools.partial(_applied, self._modules[module], shape)
            for name, (module, shape) in self.matrices.items()
        }
        inner = {head: self._modules[head]() for head in self.inner}
        return own | {f"{head}.{name}": x for head, held in inner.items() for name, x in held.items()}


def _linear(spec: Matrix) -> nn.Linear:
    """A linear module with the matrix, of which torch draws no weights of its own, nor warns of none."""
    linear = nn.Linear(1, 1, bias=False, device="meta")
    linear.weight = nn.Parameter(spec.draw().flatten(0, -2))
    linear.out_features, linear.in_features = linear.weight.shape
    return linear


def _applied(module: nn.Module, shape: tuple[int, ...], x: Tensor) -> Tensor:
    y = module(x)
    return y if len(shape) == 1 else y.unflatten(-1, shape)
