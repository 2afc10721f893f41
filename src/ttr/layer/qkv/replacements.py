"""Queries and keys that are not projections of the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.layer.initialisers import fan_in
from ttr.layer.part import Params, QKVTransform, Streams, newest_pair
from ttr.layer.sizes import Sizes


@dataclass(frozen=True)
class Ones(QKVTransform):
    """Queries or keys that are 1 in every channel: a recurrent unit writes its input and returns its state
    unchanged."""

    streams: tuple[str, ...] = ("q", "k")

    @property
    def replaces(self) -> tuple[str, ...]:
        return self.streams

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {name: torch.ones_like(streams[name]) for name in self.streams}

    @classmethod
    def examples(cls) -> tuple[Ones, ...]:
        return (cls(), cls(streams=("q",)))


@dataclass(frozen=True)
class SharedKey(QKVTransform):
    """k = q: queries and keys share one projection (SOFT, arXiv 2110.11945)."""

    replaces: ClassVar[tuple[str, ...]] = ("k",)

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {"k": streams["q"]}

    @classmethod
    def examples(cls) -> tuple[SharedKey, ...]:
        return (cls(),)


@dataclass(frozen=True)
class ComplementKey(QKVTransform):
    """k = 1 - exp(log_decay) per channel: the write gate is the complement of the decay (HGRN2, arXiv
    2404.07904)."""

    reads: ClassVar[tuple[str, ...]] = ("log_decay",)

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        if sizes.pairs > 1 or sizes.key_heads != sizes.heads:
            raise ValueError(
                "ComplementKey computes the key of a head from its decay and needs one key per head. "
                f"Use key_heads = {sizes.heads} and one pair per token."
            )
        return {}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {"k": -torch.expm1(streams["log_decay"]).to(streams["k"].dtype)}

    @classmethod
    def examples(cls) -> tuple[ComplementKey, ...]:
        return (cls(),)


@dataclass(frozen=True)
class QueryKeyFromValue(QKVTransform):
    """q and k as linear maps of the token's values of all heads instead of the layer's input (Mamba, arXiv
    2312.00752).

    Place it after the convolution of v, which is the input of the maps.
    """

    replaces = ("q", "k")

    def head_groups(self, sizes: Sizes) -> int:
        return 1

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        if sizes.pairs > 1:
            raise ValueError(
                "QueryKeyFromValue computes one key from the values of a token. Use one pair per token."
            )
        values = (sizes.value_heads, sizes.value_size)
        return {
            name: Parameter((*sizes.stream(name), *values), fan_in(values[0] * values[1]))
            for name in self.replaces
        }

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {
            name: torch.einsum("bthv,gkhv->btgk", newest_pair(streams["v"]), params[name])
            for name in self.replaces
        }

    @classmethod
    def examples(cls) -> tuple[QueryKeyFromValue, ...]:
        return (cls(),)
