"""Norms of queries, keys and values per head."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ttr.component import Parameter, constant
from ttr.layer.part import Params, QKVTransform, Streams
from ttr.layer.sizes import Sizes
from ttr.operators.rms_norm import rms_norm


@dataclass(frozen=True)
class UnitNorm(QKVTransform):
    """x / sqrt(sum x^2 + eps) per head: vectors of norm 1, for which the delta rule is stable at steps below
    2."""

    streams: tuple[str, ...] = ("q", "k")
    eps: float = 1e-6

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {name: rms_norm(streams[name], self.eps, mean=False) for name in self.streams}

    @classmethod
    def examples(cls) -> tuple[UnitNorm, ...]:
        return (cls(), cls(streams=("k",)))


@dataclass(frozen=True)
class HeadRMSNorm(QKVTransform):
    """x / rms(x) * gain per head, the gain of each stream shared by its heads (Qwen3, arXiv 2505.09388)."""

    streams: tuple[str, ...] = ("q", "k")
    eps: float = 1e-6

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        return {name: Parameter(sizes.stream(name)[-1:], constant(1.0)) for name in self.streams}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        return {name: rms_norm(streams[name], self.eps, gain=params[name]) for name in self.streams}

    @classmethod
    def examples(cls) -> tuple[HeadRMSNorm, ...]:
        return (cls(), cls(streams=("k",)))
