"""Measurements of a trained model: bits per byte, right guesses, size of the state."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.cache_utils import CacheLayerMixin

from ttr.experiments.training import bits_of, logits_of
from ttr.models.cache import MemoryLayer
from ttr.tasks.tokens import TokenWindows
from ttr.torch_internals import tree_leaves
from ttr.values import checks

MOST_BITS = 64.0
"""The most bits that a token counts, also if the model's figure is not finite, so that the mean of a diverged
model is finite."""


@torch.no_grad()
def bits_and_hits(
    model: nn.Module, tokens: Int[Tensor, "W L"], batch: int
) -> tuple[Float[Tensor, "W L-1"], Bool[Tensor, "W L-1"]]:
    """Of every token of the windows, from the window's earlier tokens alone: the bits that the model spends
    on it, ``MOST_BITS`` at most, and whether it is the token that the model holds most likely."""
    model.eval()
    device, bits, hits = next(model.parameters()).device, [], []
    for part in tokens.split(batch):
        part = part.to(device)
        logits = logits_of(model, part)
        bits.append(bits_of(logits, part).cpu())
        hits.append((logits.argmax(-1) == part[:, 1:]).cpu())
    return torch.cat(bits).nan_to_num(nan=MOST_BITS).clamp(max=MOST_BITS), torch.cat(hits)


def bits_per_byte(model: nn.Module, windows: TokenWindows, batch: int) -> float:
    """The bits of all predicted tokens over their bytes."""
    return per_byte(bits_and_hits(model, windows.ids, batch)[0], windows.sizes)


def per_byte(bits: Float[Tensor, "*shape"], sizes: Int[Tensor, "*shape"]) -> float:
    """The bits of tokens over their bytes: a ratio of sums, since a single token may have no byte."""
    return (bits.double().sum() / sizes.sum()).item()


@torch.no_grad()
@checks(values=False)
def memory_bytes(model: nn.Module, window: Int[Tensor, "1 T"]) -> int:
    """Bytes of the states of all layers after reading ``window``."""
    model.eval()
    cache = model(input_ids=window.to(model.device), use_cache=True).past_key_values
    return sum(_bytes(layer) for layer in cache.layers)


def _bytes(layer: CacheLayerMixin) -> int:
    """Bytes of a memory's state, or of what another layer of transformers keeps, such as keys and values."""
    if isinstance(layer, MemoryLayer):
        return layer.state.nbytes
    return sum(each.nbytes for each in tree_leaves(vars(layer)) if isinstance(each, Tensor))
