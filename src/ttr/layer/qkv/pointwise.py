"""Pointwise transforms of q, k and v: each token on its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.inputs import repeat_heads
from ttr.layer.initialisers import ring_radii
from ttr.layer.part import Params, QKVTransform, Streams, newest_pair
from ttr.layer.sizes import Sizes


@dataclass(frozen=True)
class Silu(QKVTransform):
    """x sigmoid(x), entry by entry."""

    streams: tuple[str, ...] = ("q", "k", "v")

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {name: torch.nn.functional.silu(streams[name]) for name in self.streams}

    @classmethod
    def examples(cls) -> tuple[Silu, ...]:
        return (cls(), cls(streams=("q",)))


@dataclass(frozen=True)
class ProjectionBias(QKVTransform):
    """x + b with a learned b for every head and channel, initially 0: projections with a bias (Qwen2, arXiv
    2407.10671)."""

    streams: tuple[str, ...] = ("q", "k", "v")

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {name: Parameter(sizes.stream(name), constant(0.0)) for name in self.streams}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {name: streams[name] + params[name] for name in self.streams}

    @classmethod
    def examples(cls) -> tuple[ProjectionBias, ...]:
        return (cls(), cls(streams=("v",)))


@dataclass(frozen=True)
class HeadBias(QKVTransform):
    """q + b and k + c with learned b, c for every head of the memory, initially 1 (Mamba-3, arXiv
    2603.15569).

    Grouped queries and keys are repeated, so that every head has its own afterwards.
    """

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {name: Parameter((sizes.heads, sizes.key_size), constant(1.0)) for name in ("q", "k")}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {name: repeat_heads(streams[name], len(bias)) + bias for name, bias in params.items()}

    @classmethod
    def examples(cls) -> tuple[HeadBias, ...]:
        return (cls(),)


@dataclass(frozen=True)
class RingGain(QKVTransform):
    """v exp(gain) with a learned gain per head (LRU, arXiv 2303.06349).

    exp(gain) starts at sqrt(1 - a^2) for the initial decays a of a ``RingDecay`` with the same fields, so
    that white noise as input gives a state of the same variance.
    """

    smallest: float = 0.9
    largest: float = 0.999

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        def start(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
            return 0.5 * torch.log1p(
                -ring_radii(sizes.heads, self.smallest, self.largest)[:: sizes.heads // shape[0]].square()
            )

        return {"gain": Parameter((sizes.value_heads,), start)}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {"v": streams["v"] * params["gain"].exp()[:, None]}

    @classmethod
    def examples(cls) -> tuple[RingGain, ...]:
        return (cls(), cls(smallest=0.5))


@dataclass(frozen=True)
class QueryCorrection(QKVTransform):
    """q <- q - d k per head, with a learned d, initially ``start``: Comba's output correction (arXiv
    2506.02475).

    The read-out S^T (q - d k) is that of q minus d times the read-out at the newest key.
    """

    start: float = 1.0

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"strength": Parameter((max(sizes.query_heads, sizes.key_heads),), constant(self.start))}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        heads = len(params["strength"])
        return {
            "q": repeat_heads(streams["q"], heads)
            - params["strength"][:, None] * repeat_heads(newest_pair(streams["k"]), heads)
        }

    @classmethod
    def examples(cls) -> tuple[QueryCorrection, ...]:
        return (cls(), cls(start=0.02))


@dataclass(frozen=True)
class RateScaledKey(QKVTransform):
    """k <- k (1 + (a - 1) c) with the in-context learning rate a, per channel, and a learned c (RWKV-7, arXiv
    2503.14456)."""

    reads: ClassVar[tuple[str, ...]] = ("learning_rate",)

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {"strength": Parameter((sizes.heads, sizes.key_size), constant(1.02))}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        factor = 1 + (streams["learning_rate"] - 1) * params["strength"]
        return {"k": (repeat_heads(streams["k"], factor.shape[-2]) * factor).to(streams["k"].dtype)}

    @classmethod
    def examples(cls) -> tuple[RateScaledKey, ...]:
        return (cls(),)
