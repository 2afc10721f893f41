"""The ways in which callers describe padding and packed sequences, each translated into one description:
which tokens are real, and which of these begin a sequence inside their row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers.utils import logging

from ttr.prepare import check_packing

logger = logging.get_logger(__name__)

NEITHER_0_NOR_1 = (
    "attention_mask must hold 1 at tokens and 0 at padding; this one holds negative numbers, "
    "fractions or 0 alone, like a mask that is added to logits. Pass the tokenizer's mask."
)
NEITHER_0_NOR_1_COMPILED = (
    "In a compiled call attention_mask must hold 1 at tokens and 0 at padding; this one holds other numbers. "
    "Pass the tokenizer's mask. To number the sequences of a row, compile without fullgraph=True and pass "
    "seq_idx, or put every sequence in its own row."
)
BEGINS_AGAIN = (
    "position_ids begin a sequence at 0, but the cache continues one that it has read. Leave the cache out "
    "to begin again, or position_ids to go on."
)
FORBIDDEN = -1e4
"""A number that is added to the logits of tokens that are not read: its exponential is 0 in every dtype."""


@dataclass(frozen=True)
class RealTokens:
    """The tokens of a batch [B, T] that are no padding, in their order.

    Attributes:
        index: their positions in the flattened batch.
        row: their rows.
        inside: whether each is not the first of its row.
    """

    index: Int[Tensor, " N"]
    row: Int[Tensor, " N"]
    inside: Bool[Tensor, " N"]

    def of(self, x: Int[Tensor, "*axes B T"]) -> Int[Tensor, "*axes N"]:
        """The numbers of these tokens."""
        return x.flatten(-2)[..., self.index]

    def starts(self, cu_seqlens: Int[Tensor, " bounds"]) -> Bool[Tensor, " N"]:
        """The tokens at boundaries [0, ..., N] inside a row."""
        marked = torch.zeros(len(self.index) + 1, dtype=torch.bool, device=self.index.device)
        marked[cu_seqlens] = True
        return self.inside & marked[:-1]


def real_tokens(shape: tuple[int, int], mask: Int[Tensor, "B T"] | None, device: torch.device) -> RealTokens:
    """The tokens at which the mask is not 0, or all of them."""
    index = (
        torch.arange(shape[0] * shape[1], device=device) if mask is None else mask.flatten().nonzero()[:, 0]
    )
    row = index // max(shape[1], 1)
    return RealTokens(index, row, row == torch.cat([row[:1] - 1, row])[: len(row)])


def numbered_mask(
    shape: tuple[int, int], mask: Tensor | None, read: Int[Tensor, " rows"] | None
) -> tuple[Int[Tensor, "B T"] | None, int, int]:
    """The number of every token's sequence in its row, from 1, and 0 at padding, or only 1 and 0 if the mask
    has no numbers; with the least and largest. None, 1, 1 without a mask."""
    if mask is None:
        return None, 1, 1
    if isinstance(mask, Tensor) and mask.ndim == 4:
        whole = _numbers_of_square(shape, mask, read)
    else:
        _warn_of_another_past(shape, mask, read)
        mask = columns(shape, mask, read is not None)
        whole = mask.long()
        if mask.is_floating_point():
            nothing_is_added = whole.numel() > 0 and not whole.any()
            if nothing_is_added or not torch.equal(whole.to(mask.dtype), mask):
                raise ValueError(NEITHER_0_NOR_1)
    least, largest = torch.stack(whole.aminmax()).tolist() if whole.numel() else (1, 1)
    if least < 0:
        raise ValueError(NEITHER_0_NOR_1)
    return whole, least, largest


def _warn_of_another_past(shape: tuple[int, int], mask: Tensor, read: Int[Tensor, " rows"] | None) -> None:
    """Tell if the columns of earlier calls in a mask are not those that a cache has read: a memory cannot
    leave them out afterwards, as attention does."""
    batch, time = shape
    if read is None or len(read) != batch or not has_columns(mask):
        return
    if time < 2 or mask.shape[1] <= time:  # a step of one token has the mask of the call before
        return
    if (mask[:, :-time].count_nonzero(1) != read.to(mask.device)).any():
        logger.warning_once(
            "attention_mask has other tokens in the columns of earlier calls than the cache has read, which "
            "stay in its states. Pass the mask of those calls, continued, or read the sequence again without "
            "the cache."
        )


def columns(shape: tuple[int, int], mask: Tensor, continues: bool) -> Tensor:
    """The columns of a mask [B, T or more] that belong to this call."""
    batch, time = shape
    fits = isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[0] == batch
    if not fits or mask.shape[1] < time or mask.shape[1] > time and not continues:
        got = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"attention_mask must have shape [{batch}, {time}], or more columns if it covers earlier "
            f"calls, and 0 at padding; got {got}."
        )
    return mask[:, mask.shape[1] - time :]


def has_columns(mask: object) -> bool:
    """Whether a mask has a number for every column, and not for every column that a token reads."""
    return isinstance(mask, Tensor) and mask.ndim == 2


def _numbers_of_square(
    shape: tuple[int, int], mask: Tensor, read: Int[Tensor, " rows"] | None
) -> Int[Tensor, "B T"]:
    """The numbers of the sequences in which every token reads all tokens up to itself; a token that does not
    read itself is padding."""
    batch, time = shape
    earlier = mask.shape[3] - time
    if mask.shape[0] not in (1, batch) or mask.shape[1:3] != (1, time) or earlier < 0:
        raise ValueError(
            f"attention_mask of 4 axes must have shape [{batch}, 1, {time}, {time}], or more columns if it "
            f"covers earlier calls; got {list(mask.shape)}."
        )
    reads, skips = (mask == 0, mask <= FORBIDDEN) if mask.is_floating_point() else (mask == 1, mask == 0)
    reads = reads[:, 0].expand(batch, -1, -1)
    past, own = reads.split([earlier, time], dim=2)
    real = own.diagonal(dim1=1, dim2=2)
    seen = past.sum(2)
    starts = real & (own.int().argmax(2) == torch.arange(time, device=mask.device))
    number = torch.where(real, starts.cumsum(1), 0)
    together = (number[:, :, None] == number[:, None, :]) & real[:, None, :]
    right = own == together.tril()
    known = seen == 0
    if read is not None:
        of_rows = number.amax(1).clamp(min=1)  # a row of padding is a sequence without a further token
        if of_rows.sum() != len(read):
            raise ValueError(
                f"This call has {int(of_rows.sum())} sequences by attention_mask, and the cache holds the "
                f"states of {len(read)}. Give as many, in the same order."
            )
        first = of_rows.cumsum(0) - of_rows
        known = seen == read.to(seen)[first[:, None] + (number - 1).clamp(min=0)]
    if not (reads | skips[:, 0]).all() or not (right.all(2) & known | ~real).all():
        raise ValueError(
            "With an attention_mask of 4 axes every token must read the tokens of its own sequence up to "
            "itself, those of earlier calls included, and nothing else, since a memory cannot leave out any. "
            "Pass the tokenizer's mask."
        )
    return number


def numbers(shape: tuple[int, int], name: str, x: Tensor, axes: int = 2) -> Int[Tensor, "axes B T"]:
    """One number for every token, along one axis or, given three dimensions, along several."""
    batch, time = shape
    if (
        not isinstance(x, Tensor)
        or x.dtype not in (torch.int32, torch.int64)
        or not 1 <= x.ndim <= axes
        or x.shape[-1] != time
        or x.ndim > 1
        and x.shape[-2] not in (1, batch)
        or x.ndim > 2
        and x.shape[0] < 1
    ):
        got = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"{name} must be int64 or int32 of shape [{time}] or [{batch}, {time}], got {got}. Leave it "
            "out if every row is one sequence."
        )
    return x.expand(len(x) if x.ndim == 3 else 1, *shape)


def positions(shape: tuple[int, int], position_ids: Tensor) -> Int[Tensor, "axes B T"]:
    """The position of every token along every axis: three of them in images and videos among text."""
    return numbers(shape, "position_ids", position_ids, axes=3)


def boundaries(shape: tuple[int, int], given: Mapping[str, Tensor]) -> Int[Tensor, " bounds"] | None:
    """The boundaries [0, ..., T], on which all arguments must agree; None if there are none."""
    for bounds in given.values():
        check_packing(bounds, *shape)
    first = next(iter(given.values()), None)
    if any(bounds.tolist() != first.tolist() for bounds in given.values()):
        raise ValueError(
            f"{' and '.join(given)} give different boundaries. Queries and keys belong to the same "
            "sequences: give cu_seqlens alone."
        )
    return first


def changes(name: str, number: Int[Tensor, "B T"], tokens: RealTokens) -> Bool[Tensor, " N"]:
    """The tokens whose sequence number differs from that of the token before."""
    number = tokens.of(number)
    step = number.diff(prepend=number[:1])
    if (number < 0).any() or (tokens.inside & (step < 0)).any():
        raise ValueError(
            f"{name} must number the sequences of a row in rising order, from 0 or 1. Mark "
            "padding by 0 in attention_mask."
        )
    return tokens.inside & (step > 0)


def restarts(position: Int[Tensor, "axes B T"], tokens: RealTokens) -> Bool[Tensor, " N"]:
    """The tokens whose positions do not follow those of the token before."""
    number = tokens.of(position)
    if (number < 0).any():
        raise ValueError("position_ids must not be negative. Mark padding by 0 in attention_mask.")
    return tokens.inside & ~follows(
        number.diff(prepend=number[:, :1]), tokens.index.diff(prepend=tokens.index[:1])
    )


def follows(step: Int[Tensor, "axes *tokens"], columns: Int[Tensor, "*tokens"]) -> Bool[Tensor, "*tokens"]:  # noqa: UP037
    """Whether tokens belong to the sequence of those before, by the ``step`` of their positions: 1, or the
    number of ``columns`` if positions count padding between tokens.

    As in transformers. Between the patches of an image, at positions (time, height, width), one axis rises
    while another may fall back; another sequence falls back in all of them.
    """
    alike = (step == step[:1]).all(0)
    return torch.where(alike, (step[0] == 1) | (step[0] == columns), (step > 0).any(0))


def check_going_on(
    position: Int[Tensor, "axes B T"],
    tokens: RealTokens,
    cu_seqlens: Int[Tensor, " bounds"],
    read: Int[Tensor, " rows"],
) -> None:
    """Refuse a first position in a sequence of which a cache has ``read`` some tokens."""
    if len(read) != len(cu_seqlens) - 1:
        return  # which the cache refuses
    token = torch.arange(len(tokens.index), device=tokens.index.device)
    sequence = torch.searchsorted(cu_seqlens, token, right=True) - 1
    if ((tokens.of(position) == 0).all(0) & (read.to(token)[sequence] > 0)).any():
        raise ValueError(BEGINS_AGAIN)
