"""Measurements of a trained model: bits per byte, size of the state, decoding speed."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttr.experiments.training import next_byte_loss
from ttr.values import checks

MOST_BITS = 64.0
"""The most bits that a byte counts, also if the model's figure is not finite, so that the mean of a diverged
model is finite."""


@torch.no_grad()
def bits_of_every_byte(model: nn.Module, tokens: Int[Tensor, "W L"], batch: int) -> Float[Tensor, "W L-1"]:
    """Bits the model spends on each byte of the windows, from the window's earlier bytes alone; ``MOST_BITS``
    at most."""
    model.eval()
    bits = torch.cat([next_byte_loss(model, part) for part in tokens.split(batch)])
    return bits.nan_to_num(nan=MOST_BITS).clamp(max=MOST_BITS)


@torch.no_grad()
@checks(values=False)
def memory_bytes(model: nn.Module, window: Int[Tensor, "1 T"]) -> int:
    """Bytes of the states of all layers after reading ``window``."""
    model.eval()
    return sum(state.nbytes for state in model(input_ids=window, use_cache=True).past_key_values.states())
