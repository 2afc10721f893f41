"""A module that owns declared tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ttr.component import Parameter


class Tensors(nn.Module):
    """Declared tensors as parameters and buffers; a dot in a name creates a submodule."""

    def __init__(self, declared: Mapping[str, Parameter]) -> None:
        super().__init__()
        inner: dict[str, dict[str, Parameter]] = {}
        for name, spec in declared.items():
            head, dot, rest = name.partition(".")
            if dot:
                inner.setdefault(head, {})[rest] = spec
            elif spec.trainable:
                self.register_parameter(name, nn.Parameter(spec.draw()))
            else:
                self.register_buffer(name, spec.draw())
        for head, specs in inner.items():
            self.add_module(head, Tensors(specs))

    def forward(self) -> dict[str, Tensor]:
        """The tensors by their declared names. Calling the module, like any other, lets hooks run first:
        those of accelerate load tensors that are kept elsewhere."""
        own = {name: tensor for name, tensor in self._parameters.items() if tensor is not None}
        own |= {name: tensor for name, tensor in self._buffers.items() if tensor is not None}
        inner = {head: module() for head, module in self._modules.items()}
        return own | {f"{head}.{name}": x for head, held in inner.items() for name, x in held.items()}
