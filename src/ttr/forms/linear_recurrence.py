"""The tensors of a linear recurrence, as the kernels get them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Recurrence(NamedTuple):
    """S_j = D_j S_{j-1} + step_j (key_j value_j^T - erase_j (S_x^T read_j)^T), j = 1..L, L = T n, and y_t =
    scale S_{tn}^T query_t.

    Letters: B batch, T tokens, n = ``pairs`` per token, H heads, F key size, V value size. One floating
    dtype, float32 or float64; any strides.

        query      [B,T,H,F]
        key        [B,L,H,F]
        value      [B,L,H,V]
        read       [B,L,H,F], or None for an additive memory (no correction)
        erase      [B,L,H,F], or None where it is the key
        step       [B,L,H], or None where it is 1; it multiplies the written pair and the correction alike
        log_decay  [B,L,H] or [B,L,H,F], finite and in [-80, 0] (-80 is a reset), or None where nothing is
                   forgotten
        memory     [B,H,F,V], S_0

    S_x is D_j S_{j-1} ("decayed"), or S_{j-1} where ``old``. With ``reads_first`` (n = 1) a token reads
    before it decays and writes: y_t = scale S_{t-1}^T query_t.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    read: Tensor | None
    erase: Tensor | None
    step: Tensor | None
    log_decay: Tensor | None
    memory: Tensor
    pairs: int = 1
    old: bool = False
    reads_first: bool = False
    scale: float = 1.0
