"""Torch operators of the layer around a memory: cache-blocked passes over a whole stream, each with its
derivative."""

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """x in float32 or wider, in which gates, norms and sums are computed."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
