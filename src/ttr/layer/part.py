"""The parts of a layer around its memory: transforms of q, k, v (``qkv``), gates, which compute the controls
of the memory (``gates``), and parts applied to its read-out (``output``).

A part is a pure function of named streams, each of which has one tensor per token, and returns the streams it
changes or adds:

    x [B,T,D] the layer's input; x_q, x_k, x_v the inputs of the projections of q, k and v if not x
    position [B,T] number of the token in its sequence, from 0
    q [B,T,Hq,K]   k [B,T,Hk,K] or [B,T,n,Hk,K]   v [B,T,Hv,V] or [B,T,n,Hv,V]
    the controls of ``ttr.controls.CONTROLS``, by name                        y [B,T,H,V] the read-out

A part is a frozen description without tensors: its learned tensors are declared by ``parameters`` and passed
to the call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Component, Parameter
from ttr.layer.sequences import Sequences
from ttr.layer.sizes import Sizes

Streams = Mapping[str, Tensor]

Params = Mapping[str, Tensor | Callable[[Tensor], Tensor]]
"""The tensors of a part by their declared names; a ``Matrix`` may be given as the map x -> W x."""

WORDS = re.compile("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""The boundaries between the words in the name of a class."""


class Part(Component):
    """One part of a layer around its memory.

    Declared structure:
        reads: the streams it needs besides x, position, q, k and v.
        makes: the streams it adds.
        replaces: those of q, k and v that it computes itself. They have no projection and arrive as zeros of
            the right shape.
        past: how many tokens before the call's it needs of each stream in its field ``streams``.
        of_input: whether it comes before the projections and gets only x and position.
    """

    kind: ClassVar[str] = ""
    reads: ClassVar[tuple[str, ...]] = ()
    makes: ClassVar[tuple[str, ...]] = ()
    replaces: ClassVar[tuple[str, ...]] = ()
    past: ClassVar[int] = 0
    of_input: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The name of the module that holds its tensors."""
        return re.sub(WORDS, "_", type(self).__name__).lower()

    def parameters(self, sizes: Sizes) -> dict[str, Parameter]:
        """The tensors it owns in a layer of these sizes."""
        return {}

    def transparent(self, sizes: Sizes) -> dict[str, Tensor]:
        """What its tensors hold, by name, where it leaves its streams nearly as they are: so it begins behind
        projections that were trained without it. Empty if its fresh tensors will do."""
        return {}

    def head_groups(self, sizes: Sizes) -> int:
        """The number of groups of neighbouring heads that it computes independently of each other: that of
        the heads, unless it says otherwise."""
        return sizes.heads

    def sums(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        """The streams it makes that other parts get as running sums over all tokens so far: name -> shape
        without batch and time."""
        return {}

    def __call__(self, params: Params, streams: Streams) -> dict[str, Tensor]:
        """The streams it changes or adds, computed from all streams; ``params`` are those that ``parameters``
        declares.

        With a ``past`` the streams in its field ``streams`` are preceded by that many earlier tokens, zeros
        before the first of a sequence."""
        raise NotImplementedError

    def continued(
        self, params: Params, streams: Streams, tails: Streams, sequences: Sequences
    ) -> dict[str, Tensor]:
        """The same with the earlier tokens passed separately: ``tails`` [N,past,...], one row per sequence.
        Override it to avoid copying the streams."""
        extended = {name: sequences.extend(streams[name], tail) for name, tail in tails.items()}
        return {
            name: sequences.tokens(made, self.past)
            for name, made in self(params, {**streams, **extended}).items()
        }


class QKVTransform(Part):
    """A transform of q, k, v between projection and memory."""

    kind: ClassVar[str] = "qkv"


class Gate(Part):
    """A part that computes a control of the memory: ``makes[0]``, with the axes ``axes``.

    With ``after_qkv`` it gets q, k, v after all qkv transforms, otherwise directly from the projections.
    """

    kind: ClassVar[str] = "gate"
    axes: ClassVar[str] = ""
    after_qkv: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The name of its control, which no other gate of a layer computes."""
        return self.makes[0]


class Output(Part):
    """A part applied to y between memory and output projection."""

    kind: ClassVar[str] = "output"


def newest_pair(x: Tensor) -> Tensor:
    """k or v of the newest pair of every token: [B,T,(n,)h,K] -> [B,T,h,K]."""
    return x if x.ndim == 4 else x[:, :, -1]


def linear(x: Tensor, weight: Tensor | Callable[[Tensor], Tensor]) -> Tensor:
    """A linear map to several axes: [B,T,d] by [...,d] -> [B,T,...]. ``weight`` is the matrix, or applies
    it."""
    if not isinstance(weight, Tensor):
        return weight(x)
    if weight.ndim == 2:
        return torch.nn.functional.linear(x, weight)
    return torch.nn.functional.linear(x, weight.flatten(0, -2)).unflatten(-1, weight.shape[:-1])
