"""Chunks of tokens: how the chunkwise engines cut time, and the decays and scores inside a chunk.

Letters: M chunks of C tokens, N = C n pairs per chunk, R rows of scores per chunk (r per token), E = F with a
decay per key channel, else 1. Chunks come first, [M,B,H,N,.], so that a scan over them unbinds one axis:
slices of a full-length tensor in a loop would make the backward pass quadratic in T.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import threshold

from ttr.forms.sums import lengthened

NEGLIGIBLE = -60.0
"""The log decay from which on a factor is 0 instead of e^-60 = 9e-27: what it multiplies adds no digit, but
products with it would be denormal, and slow."""


def check_chunk(chunk: int) -> None:
    """Refuse a chunk that cannot be halved down to single tokens, or is so long that its matrix of scores
    exceeds every cache.

    Raises:
        ValueError: if it is not a power of two up to 1024.
    """
    if not 1 <= chunk <= 1024 or chunk & (chunk - 1):
        raise ValueError(
            f"A chunk of {chunk} tokens cannot be halved down to single ones, or is too long. "
            "Use a power of two up to 1024."
        )


def chunk_length(chunk: int, time: int) -> int:
    """Tokens per chunk: ``chunk``, or the least power of two that holds a shorter sequence."""
    return min(chunk, 1 << max(time - 1, 0).bit_length())


def split(x: Float[Tensor, "B L H *rest"], size: int) -> Float[Tensor, "M B H {size} *rest"]:
    """Cut time into chunks of ``size`` pairs, at least one. The last is padded with zeros: pairs that write
    and read nothing, without decay."""
    count = max(1, -(-x.shape[1] // size))
    x = lengthened(x, 1, count * size - x.shape[1])
    return x.unflatten(1, (count, size)).movedim((1, 3), (0, 2)).contiguous()


def join(y: Float[Tensor, "M B H C V"], time: int) -> Float[Tensor, "B {time} H V"]:
    """Undo ``split`` for the read-outs."""
    return y.movedim((0, 2), (1, 3)).flatten(1, 2)[:, :time]


def cumulative_log_decay(
    log_decay: Float[Tensor, "B L H *F"] | None, like: Float[Tensor, "B L H K"], size: int
) -> Float[Tensor, "M ... {size} E"]:
    """The log decay from the start of its chunk to each pair.

    In float64 where the device has it: differences of these sums are then accurate for weak decays next to
    resets too. The sum is a product with a triangle of ones, because ``cumsum`` is not deterministic on CUDA
    devices.
    """
    log_decay = like.new_zeros(1, like.shape[1], 1) if log_decay is None else log_decay
    log_decay = log_decay if log_decay.ndim == 4 else log_decay[..., None]
    wide = log_decay.dtype if log_decay.device.type == "mps" else torch.float64
    return torch.ones(size, size, dtype=wide, device=log_decay.device).tril() @ split(
        log_decay.to(wide), size
    )


def shrink(x: Float[Tensor, "*lead D"], log: Float[Tensor, "*#lead #D"]) -> Float[Tensor, "*lead D"]:
    """x exp(log), for log <= 0; 0 from ``NEGLIGIBLE`` down."""
    return x * threshold(log.to(x.dtype), NEGLIGIBLE, -torch.inf).exp()


def scores(
    rows: Float[Tensor, "M B H R F"],
    keys: Float[Tensor, "M B H N F"],
    log_rows: Float[Tensor, "M ... R E"],
    log_keys: Float[Tensor, "M ... N E"],
    visible: Int[Tensor, " R"],
    tokens: int,
) -> Float[Tensor, "M B H R N"]:
    """A_ij = sum_d row_id key_jd exp(log_row_id - log_key_jd), exactly 0 beyond the first ``visible[i]``
    pairs.

    The two exponentials of a difference are never formed apart: exp(-log_key) overflows.
    """
    hidden = torch.arange(keys.shape[-2], device=keys.device) >= visible[:, None]
    if log_keys.shape[-1] > 1:
        return _scores_by_halving(rows, keys, log_rows, log_keys, tokens).masked_fill(hidden, 0.0)
    between = (log_rows - log_keys.mT).to(rows.dtype).masked_fill(hidden, -torch.inf)
    return (rows @ keys.mT) * threshold(between, NEGLIGIBLE, -torch.inf).exp()


def _scores_by_halving(
    rows: Float[Tensor, "M B H R F"],
    keys: Float[Tensor, "M B H N F"],
    log_rows: Float[Tensor, "M B H R F"],
    log_keys: Float[Tensor, "M B H N F"],
    tokens: int,
) -> Float[Tensor, "M B H R N"]:
    """The same with a decay per key channel, without a tensor of R x N x F.

    In a block of tokens cut in halves, scores of rows of the late half with keys of the early one factor at
    the border b between them: log_row - log_key = (log_row - b) + (b - log_key), both <= 0 for any gates, so
    the block is one product of decayed rows and keys. Blocks of 2, 4, ..., C tokens give every score but
    those within a token, where there is no decay.
    """
    square = rows.unflatten(-2, (tokens, -1)) @ keys.unflatten(-2, (tokens, -1)).mT
    while tokens > 1:
        tokens //= 2
        late, log_late = (x.unflatten(-2, (tokens, 2, -1)).unbind(-3)[1] for x in (rows, log_rows))
        early, log_early = (x.unflatten(-2, (tokens, 2, -1)).unbind(-3)[0] for x in (keys, log_keys))
        border = log_early[..., -1:, :]
        across = shrink(late, log_late - border) @ shrink(early, border - log_early).mT
        first, second = square.unflatten(-3, (tokens, 2)).unbind(-3)
        square = torch.cat(
            [torch.cat([first, torch.zeros_like(across)], -1), torch.cat([across, second], -1)], -2
        )
    return square[..., 0, :, :]
