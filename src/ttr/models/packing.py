"""Packing of batches whose rows are not one whole sequence each into the form that every memory accepts.

Padding never reaches a memory: the real tokens are packed into one row, [1, N, .], with the boundaries of
their sequences, and the outputs are scattered back to their positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ttr.prepare import check_packing


@dataclass(frozen=True)
class Packing:
    """The positions of the real tokens of a batch [B, T], and the sequences they form.

    Attributes:
        shape: (B, T).
        index: position of every real token in the flattened batch, rising.
        cu_seqlens: boundaries [0, ..., N] of the sequences among the real tokens.
    """

    shape: tuple[int, int]
    index: Int[Tensor, " N"]
    cu_seqlens: Int[Tensor, " bounds"]

    def pack(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "1 N D"]:
        """The real tokens, packed."""
        return x.flatten(0, 1)[self.index][None]

    def unpack(self, x: Float[Tensor, "1 N D"]) -> Float[Tensor, "B T D"]:
        """The tokens scattered back to their positions, 0 at padding."""
        flat = x.new_zeros(self.shape[0] * self.shape[1], x.shape[-1])
        return flat.index_copy(0, self.index, x[0]).view(*self.shape, x.shape[-1])

    def labels(self, labels: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        """The labels, set to -100 at tokens that do not directly follow a token of their own sequence."""
        follows = self.index.diff(prepend=self.index[:1] - 2) == 1
        lengths = self.cu_seqlens.diff()
        follows[self.cu_seqlens[:-1][lengths > 0].long()] = False
        kept = self.index[follows]
        flat = labels.flatten()
        return torch.full_like(flat, -100).index_copy(0, kept, flat[kept]).view_as(labels)

    def real(self) -> Bool[Tensor, "B T"] | None:
        """True at tokens and False at padding; None if a row holds several sequences."""
        if self.shape[0] != len(self.cu_seqlens) - 1:
            return None
        padding = torch.zeros(self.shape, dtype=torch.bool, device=self.index.device)
        return padding.flatten().index_fill(0, self.index, True).view(self.shape)


def packing_of(
    shape: tuple[int, int],
    *,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    seq_idx: Tensor | None = None,
    continues: bool = False,
    **bounds: Tensor | None,
) -> Packing | None:
    """The packing of a batch of shape (B, T); None if every row is one whole sequence.

    Args:
        attention_mask: [B, T or more], 0 at padding; of a longer mask, which also covers earlier calls, the
            last T columns are used. Numbers above 1 mark the sequences of a row, as in ``seq_idx``.
        position_ids: [B or 1, T], rising by one from token to token; a 0 within a row begins another
            sequence.
        seq_idx: [B or 1, T], the number of every token's sequence in its row, rising.
        continues: whether the sequences began in earlier calls.
        bounds: boundaries [0, ..., T] of sequences packed along time, with B = 1, by the names of their
            arguments.

    Raises:
        ValueError: if one of them has an unknown form, or two contradict each other.
    """
    mask, least, largest = (None, 1, 1) if attention_mask is None else _mask(shape, attention_mask, continues)
    ids = {
        "attention_mask": mask if largest > 1 else None,
        "seq_idx": None if seq_idx is None else _integers(shape, "seq_idx", seq_idx),
    }
    ids = {name: x for name, x in ids.items() if x is not None}
    position = None if position_ids is None else _integers(shape, "position_ids", position_ids)
    cu_seqlens = _bounds(shape, {name: x for name, x in bounds.items() if x is not None}, padded=least < 1)
    if least > 0 and not ids and cu_seqlens is None and (position is None or shape[1] == 1):
        return None
    device = next(x.device for x in (mask, position, cu_seqlens, *ids.values()) if x is not None)
    index = torch.arange(shape[0] * shape[1], device=device) if least > 0 else mask.flatten().nonzero()[:, 0]
    row = index // max(shape[1], 1)
    inside = row == torch.cat([row[:1] - 1, row])[: len(row)]  # not the first token of its row
    starts = {name: _changes(name, x.flatten()[index], inside) for name, x in ids.items()}
    if cu_seqlens is not None:
        starts["cu_seqlens"] = inside & torch.isin(index, cu_seqlens.to(index))
    elif continues and ids:
        raise ValueError(
            f"{next(iter(ids))} numbers sequences, but the cache continues those it has, one per row. "
            "Leave it out."
        )
    if position is not None:
        fixed = starts["cu_seqlens"] if continues and cu_seqlens is not None else None
        starts["position_ids"] = _restarts(position.flatten()[index], index, inside, fixed)
    starts = _agreed(starts) if starts else torch.zeros_like(inside)
    if cu_seqlens is not None:
        return Packing(shape, index, cu_seqlens)
    if continues and starts.any():
        raise ValueError(
            "position_ids begin another sequence inside a row, but the cache continues one sequence per "
            "row. Put every sequence in its own row, or give boundaries cu_seqlens of as many sequences "
            "as the cache holds."
        )
    if least > 0 and not starts.any():
        return None
    rows = torch.searchsorted(row, torch.arange(shape[0] + 1, device=device))
    return Packing(shape, index, torch.cat([rows, starts.nonzero()[:, 0]]).sort().values)


def _mask(shape: tuple[int, int], mask: Tensor, continues: bool) -> tuple[Int[Tensor, "B T"], int, int]:
    """The mask's columns of this call, as integers, and their least and largest number."""
    batch, time = shape
    fits = isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[0] == batch
    if not fits or mask.shape[1] < time or mask.shape[1] > time and not continues:
        got = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"attention_mask must have shape [{batch}, {time}], or more columns if it covers earlier "
            f"calls, and 0 at padding; got {got}."
        )
    mask = mask[:, mask.shape[1] - time :]
    whole = mask.long()
    least, largest = torch.stack(whole.aminmax()).tolist() if whole.numel() else (1, 1)
    if least < 0 or mask.is_floating_point() and not torch.equal(whole.to(mask.dtype), mask):
        raise ValueError(
            "attention_mask must hold 1 at tokens and 0 at padding; this one holds negative numbers or "
            "fractions, like a mask that is added to logits. Pass the tokenizer's mask."
        )
    return whole, least, largest


def _integers(shape: tuple[int, int], name: str, x: Tensor) -> Int[Tensor, "B T"]:
    """One number for every token."""
    batch, time = shape
    if (
        not isinstance(x, Tensor)
        or x.dtype not in (torch.int32, torch.int64)
        or x.ndim != 2
        or x.shape[0] not in (1, batch)
        or x.shape[1] != time
    ):
        got = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"{name} must be int64 or int32 of shape [{batch}, {time}] or [1, {time}], got "
            f"{got}. "
            "Leave it out if every row is one sequence."
        )
    return x.expand(shape)


def _bounds(
    shape: tuple[int, int], given: Mapping[str, Tensor], padded: bool
) -> Int[Tensor, " bounds"] | None:
    """The boundaries, on which all arguments must agree."""
    for name, bounds in given.items():
        check_packing(bounds, *shape)
        if padded:
            raise ValueError(
                "attention_mask marks padding inside packed sequences. Leave the padding out, "
                f"or give padded rows without {name}."
            )
    first = next(iter(given.values()), None)
    if any(bounds.tolist() != first.tolist() for bounds in given.values()):
        raise ValueError(
            f"{' and '.join(given)} give different boundaries. Queries and keys belong to the same "
            "sequences: give cu_seqlens alone."
        )
    return first


def _changes(name: str, number: Int[Tensor, " N"], inside: Bool[Tensor, " N"]) -> Bool[Tensor, " N"]:
    """The tokens whose sequence number differs from that of the token before."""
    step = number.diff(prepend=number[:1])
    if (number < 0).any() or (inside & (step < 0)).any():
        raise ValueError(
            f"{name} must number the sequences of a row in rising order, from 0 or 1. Mark "
            "padding by 0 in attention_mask."
        )
    return inside & (step > 0)


def _restarts(
    position: Int[Tensor, " N"],
    index: Int[Tensor, " N"],
    inside: Bool[Tensor, " N"],
    fixed: Bool[Tensor, " N"] | None,
) -> Bool[Tensor, " N"]:
    """The tokens at which position_ids begin another sequence: ``fixed`` if given, else those of position
    0."""
    starts = inside & (position == 0) if fixed is None else fixed
    # positions may count padding between tokens
    step, columns = position.diff(prepend=position[:1]), index.diff(prepend=index[:1])
    if (inside & ~starts & (step != 1) & (step != columns)).any():
        raise ValueError(
            "position_ids must rise by one from token to token, and be 0 at the start of another sequence "
            "in a row. Give the boundaries of packed sequences as cu_seqlens, and leave position_ids out."
        )
    return starts


def _agreed(starts: Mapping[str, Bool[Tensor, " N"]]) -> Bool[Tensor, " N"]:
    """The tokens at which sequences begin."""
    first, *others = starts
    for other in others:
        if not torch.equal(starts[first], starts[other]):
            raise ValueError(
                f"{first} and {other} contradict each other about where sequences begin. Give one of them."
            )
    return starts[first]
