"""The layers that claims about trained models compare: a memory of the catalogue with plain parts around it,
the same for all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import ttr
from ttr.experiments.common_layer import common_layer, needs_unit_keys
from ttr.layer.architecture import Architecture
from ttr.layer.part import Part
from ttr.layer.qkv.pointwise import Silu
from ttr.layer.qkv.rotary import Rotary
from ttr.layer.qkv.short_convolution import ShortConvolution

NAMES: Mapping[str, str] = {
    "linear-attention": "linear attention",
    "mamba2": "Mamba-2",
    "deltanet": "DeltaNet",
    "gated-deltanet": "gated DeltaNet",
    "mesanet": "MesaNet",
    "softmax-attention": "softmax attention",
    "local-linear-attention": "local linear attention",
}
"""What people call the memories."""


def plain_layer(memory: str, convolved: Sequence[str] = (), positions: bool = False) -> Architecture:
    """A memory of the catalogue with its own gates, a linear convolution of four taps on some of q, k, v,
    SiLU and unit keys where updates need them, and rotary positions only if they are asked for."""
    found = common_layer(ttr.catalogue[memory])
    own = [part for part in found.qkv if not isinstance(part, ShortConvolution | Rotary)]
    shift: list[Part] = [ShortConvolution(streams=tuple(convolved), silu=False)] if convolved else []
    unit: list[Part] = [Silu(("q", "k"))] if needs_unit_keys(found.problem) else []
    turned: list[Part] = [Rotary()] if positions else []
    return dataclasses.replace(found, qkv=(*shift, *unit, *own, *turned), output=())


def plain_layers(memories: Sequence[str], convolved: Sequence[str] = ()) -> dict[str, Architecture]:
    """Such a layer for each memory, by what people call it."""
    return {NAMES[memory]: plain_layer(memory, convolved) for memory in memories}
