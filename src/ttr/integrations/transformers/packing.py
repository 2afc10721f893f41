"""Sequences packed in a row, kept apart by the attention between recurrent layers, too."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from ttr.integrations.transformers.rules import BOUNDS, bounds_of

MASKS = ("causal_mask", "attention_mask")
"""The arguments of layers that hold the mask of their attention; the first of them that a layer has."""

BY_MASK = ("eager", "sdpa")
"""transformers' implementations of attention that know nothing of sequences but what the mask says."""


def within_sequences(
    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a layer's forward on x [1,T,D], with the mask of its attention narrowed to the
    sequences whose bounds are among them.

    transformers makes this mask of ``position_ids``, which a call may lack, and which some models (Granite)
    do not use; bounds reach flash attention alone."""
    if all(kwargs.get(name) is None for name in BOUNDS):
        return args, kwargs
    _, *names = inspect.signature(type(layer).forward).parameters
    named = {**dict(zip(names, args)), **kwargs}
    x, place = named.get("hidden_states"), next((name for name in MASKS if name in named), None)
    if x is None or place is None or not _attends_by_mask(layer):
        return args, kwargs
    mask, time = named[place], x.shape[1]
    if mask is not None and mask.shape[-2:] != (time, time):
        return args, kwargs
    bounds, token = bounds_of(kwargs, time), torch.arange(time, device=x.device)
    number = torch.searchsorted(bounds.to(token), token, right=True)
    together = number[:, None] == number
    if mask is None:
        mask = together.tril()[None, None]
    elif mask.dtype == torch.bool:
        mask = mask & together
    else:
        mask = mask.masked_fill(~together, torch.finfo(mask.dtype).min)
    return (), named | {place: mask}


def _attends_by_mask(layer: nn.Module) -> bool:
    attention = (m.config for m in layer.modules() if getattr(m, "is_causal", False) and hasattr(m, "config"))
    return any(config._attn_implementation in BY_MASK for config in attention)
