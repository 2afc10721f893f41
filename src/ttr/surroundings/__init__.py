"""What stands around a memory: how q, k, v are made ready (``keys``), where its controls come from
(``controls``), and what happens to its read-out (``output``).

A surrounding is a pure function of named streams, one tensor per token each, and returns the streams it
changes or adds:

    x [B,T,D] the layer's input; x_q, x_k, x_v what q, k and v are projected from where that is not x itself
    position [B,T] number of the token in its sequence, from 0
    q [B,T,Hq,K]   k [B,T,Hk,K] or [B,T,n,Hk,K]   v [B,T,Hv,V] or [B,T,n,Hv,V]
    the controls of ``ttr.problem.CONTROLS``, by name                        y [B,T,H,V] the read-out

It is a frozen description without tensors: those that it learns are declared by ``parameters`` and passed to
the call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Component, Parameter
from ttr.operators import wide as wide
from ttr.surroundings.sequences import Sequences

Streams = Mapping[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """The sizes of one layer: those of the model, of the memory, and where the layer stands among ``layers``.

    ``query_heads``, ``key_heads`` and ``value_heads`` divide ``heads``, the heads of the memory;
    ``feature_size`` is that of the memory's function, ``pairs`` the number of pairs per token, ``levels``
    that of the levels that its weights tell apart, ``groups`` that of groups of its parameters with steps of
    their own.
    """

    d_model: int
    query_heads: int
    key_heads: int
    value_heads: int
    key_size: int
    value_size: int
    feature_size: int
    pairs: int = 1
    layer: int = 0
    layers: int = 1
    levels: int = 0
    groups: int = 1

    @property
    def heads(self) -> int:
        """Heads of the memory."""
        return max(self.query_heads, self.key_heads, self.value_heads)

    @property
    def per_pair(self) -> tuple[int, ...]:
        """The axis of the pairs of a token: (n,), or none if there is one."""
        return () if self.pairs == 1 else (self.pairs,)

    def stream(self, name: str) -> tuple[int, ...]:
        """The shape of q, k, v, x or a key among the controls behind batch and time."""
        return {
            "x": (self.d_model,),
            "q": (self.query_heads, self.key_size),
            "k": (*self.per_pair, self.key_heads, self.key_size),
            "v": (*self.per_pair, self.value_heads, self.value_size),
            "transport_key": (self.heads, self.key_size),
        }[name]


class Surrounding(Component):
    """One thing that stands around a memory.

    Declared structure:
        reads: the streams it needs, beside x, position, q, k and v.
        makes: the streams it adds.
        replaces: those of q, k and v that it makes anew, which need no projection then: theirs are zeros of
            the right shape.
        past: how many earlier tokens of each stream in its field ``streams`` it sees in front of the call's.
        of_input: it comes before the projections and has x and position alone.
    """

    kind: ClassVar[str] = ""
    reads: ClassVar[tuple[str, ...]] = ()
    makes: ClassVar[tuple[str, ...]] = ()
    replaces: ClassVar[tuple[str, ...]] = ()
    past: ClassVar[int] = 0
    of_input: ClassVar[bool] = False

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        """The tensors it owns in a layer of these sizes."""
        return {}

    def sums(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        """The streams it makes whose sum over all tokens so far is what others get: name -> shape behind
        batch and time."""
        return {}

    def __call__(self, params: Mapping[str, Tensor], streams: Streams) -> dict[str, Tensor]:
        """The streams it changes or adds, from all there are; ``params`` are those that ``parameters``
        declares.

        With a ``past`` those in ``streams`` have that many earlier tokens in front, zeros before the first of
        a sequence."""
        raise NotImplementedError

    def continued(
        self, params: Mapping[str, Tensor], streams: Streams, tails: Streams, sequences: Sequences
    ) -> dict[str, Tensor]:
        """The same with the earlier tokens apart: ``tails`` [N,past,...], one row per sequence. Override it
        to spare the longer copies."""
        extended = {name: sequences.extend(streams[name], tail) for name, tail in tails.items()}
        return {
            name: sequences.tokens(made, self.past)
            for name, made in self(params, {**streams, **extended}).items()
        }


class Keys(Surrounding):
    """What happens to q, k, v between projection and memory."""

    kind: ClassVar[str] = "keys"


class Controls(Surrounding):
    """Where a control comes from: ``makes[0]``, with the axes ``axes``.

    With ``after_keys`` it sees q, k, v as the memory gets them, else as they leave the projection.
    """

    kind: ClassVar[str] = "controls"
    axes: ClassVar[str] = ""
    after_keys: ClassVar[bool] = False


class Output(Surrounding):
    """What happens to y between memory and output projection."""

    kind: ClassVar[str] = "output"


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """x kept between -cap and cap by a hyperbolic tangent, which leaves small numbers as they are."""
    return cap * torch.tanh(x / cap)


def fan_in(size: int) -> Callable[[tuple[int, ...], torch.Generator | None], Tensor]:
    """The initialiser of a linear map of ``size`` channels that keeps their scale: normal numbers of variance
    1 / size."""
    return lambda shape, generator: torch.randn(shape, generator=generator) / math.sqrt(max(size, 1))


def log_uniform_rates(low: float, high: float) -> Callable[[tuple[int, ...], torch.Generator | None], Tensor]:
    """The initialiser whose exponential is uniform between ``low`` and ``high``, kept off 0."""
    return lambda shape, generator: torch.log(
        (low + (high - low) * torch.rand(shape, generator=generator)).clamp(min=1e-2)
    )


def time_step_bias(
    low: float = 1e-3, high: float = 0.1
) -> Callable[[tuple[int, ...], torch.Generator | None], Tensor]:
    """The initialiser whose softplus is log-uniform between ``low`` and ``high`` (Mamba, arXiv
    2312.00752)."""

    def init(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        step = torch.exp(
            math.log(low) + (math.log(high) - math.log(low)) * torch.rand(shape, generator=generator)
        )
        return step + torch.log(-torch.expm1(-step))

    return init


def ring_radii(heads: int, smallest: float, largest: float) -> Tensor:
    """Radii of points that fill a ring of the unit disk evenly: their squares are equally spaced (LRU, arXiv
    2303.06349)."""
    place = (torch.arange(heads) + 0.5) / heads
    return torch.sqrt(smallest**2 + (largest**2 - smallest**2) * place)


def newest_pair(x: Tensor) -> Tensor:
    """k or v of the newest pair of every token: [B,T,(n,)h,K] -> [B,T,h,K]."""
    return x if x.ndim == 4 else x[:, :, -1]
