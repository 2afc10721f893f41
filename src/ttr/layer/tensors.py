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

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by their declared names."""
        return dict(self.named_parameters()) | dict(self.named_buffers())
