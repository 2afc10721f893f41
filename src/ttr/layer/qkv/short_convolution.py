from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.layer.part import Params, QKVTransform, Streams
from ttr.layer.sequences import Sequences
from ttr.layer.sizes import Sizes
from ttr.operators.short_convolution import short_convolution


@dataclass(frozen=True)
class ShortConvolution(QKVTransform):
    """A causal depthwise convolution of a stream, sum_{j<width} w_j x_{t-j}, then SiLU.

    It covers ``width`` - 1 earlier tokens, zeros before the first (H3, arXiv 2212.14052; Mamba, 2312.00752).
    The weight's first axis runs from the oldest token to the newest.
    """

    width: int = 4
    streams: tuple[str, ...] = ("q", "k", "v")
    silu: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        if self.width < 2:
            raise ValueError(
                f"ShortConvolution(width={self.width}) covers no earlier token. Use a width of at least 2, "
                "or Silu()."
            )

    @property
    def past(self) -> int:
        return self.width - 1

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        bound = 1 / math.sqrt(self.width)

        def init(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
            return bound * (2 * torch.rand(shape, generator=generator) - 1)

        weights = {name: Parameter((self.width, *sizes.stream(name)), init) for name in self.streams}
        return weights | (
            {f"{name}_bias": Parameter(sizes.stream(name), constant(0.0)) for name in self.streams}
            if self.bias
            else {}
        )

    def transparent(self, sizes: Sizes) -> dict[str, Tensor]:
        """Weights of the newest token alone."""
        shapes = {name: sizes.stream(name) for name in self.streams}
        return {
            name: torch.cat([torch.zeros(self.past, *shape), torch.ones(1, *shape)])
            for name, shape in shapes.items()
        }

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {
            name: self._convolve(name, streams[name][:, self.past :], streams[name][:, : self.past], params)
            for name in self.streams
        }

    def continued(
        self, params: Params, streams: Streams, tails: Streams, sequences: Sequences
    ) -> dict[str, Tensor]:
        return {
            name: self._convolve(name, streams[name], tail, params, sequences.cu_seqlens)
            for name, tail in tails.items()
        }

    def _convolve(
        self, name: str, x: Tensor, tail: Tensor, params: Params, bounds: Tensor | None = None
    ) -> Tensor:
        """[B,T,...] and the tokens before it -> [B,T,...]."""
        bias = params[f"{name}_bias"].flatten() if self.bias else None
        y = short_convolution(
            x.flatten(2), tail.flatten(2), params[name].flatten(1), bias, silu=self.silu, bounds=bounds
        )
        return y.reshape(x.shape)

    @classmethod
    def examples(cls) -> tuple[ShortConvolution, ...]:
        return (cls(), cls(width=3, streams=("q", "v"), silu=False, bias=True))
