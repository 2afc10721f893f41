"""The base class of networks: matrices whose initial values are parameters of the layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.problem import Function


class _Network(Function):
    """A function whose memory is the weights of a network, each a matrix [inputs, outputs] with or without a
    bias "NAME_bias"."""

    start: float | None
    hidden: int

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        shapes = self.memory(self.feature_size(key_size), value_size)
        return {name: Parameter((heads, *shape), _normal(self.start)) for name, shape in shapes.items()}

    def initial(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: x for name, x in params.items() if name.partition("_")[0] in self.matrices()}

    def formulas(self) -> dict[str, str]:
        deviation = "1 / sqrt(inputs)" if self.start is None else f"{self.start:g}"
        return {
            "read-out": (
                "y_t = m(q_t) with the weights W_t, whose start is learned and initialised from a "
                f"normal distribution of deviation {deviation}"
            ),
            "scale": "1: queries are not scaled",
        }

    def _width(self) -> str:
        return "as wide as the input" if self.hidden == 1 else f"{self.hidden} times as wide as the input"

    def matrices(self) -> tuple[str, ...]:
        """The names of the matrices."""
        raise NotImplementedError

    def query(self, q: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return q

    def key(self, k: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return k


def _normal(deviation: float | None) -> Callable[[tuple[int, ...], torch.Generator | None], Tensor]:
    """Normal numbers for a matrix [H, inputs, outputs], of variance 1 / inputs where no deviation is given; 0
    for a bias [H, outputs]."""

    def init(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        if len(shape) == 2:
            return torch.zeros(shape)
        return torch.randn(shape, generator=generator) * (
            1 / math.sqrt(max(shape[1], 1)) if deviation is None else deviation
        )

    return init
