"""Batches whose rows hold anything but one whole sequence, brought to the one form that every memory understands.

Padding never reaches a memory: the real tokens are laid end to end, [1, N, .], with the boundaries of their sequences, and
what comes out is put back where they stood.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where the real tokens of a batch [B, T] stand, and which sequences they form.

    Attributes:
        shape: (B, T).
        index: position of every real token in the flattened batch, rising.
        cu_seqlens: boundaries [0, ..., N] of the sequences among the real tokens.
    """

    shape: tuple[int, int]
    index: Int[Tensor, " N"]
    cu_seqlens: Int[Tensor, " bounds"]

    def pack(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "1 N D"]:
        """The real tokens end to end."""
        return x.flatten(0, 1)[self.index][None]

    def unpack(self, x: Float[Tensor, "1 N D"]) -> Float[Tensor, "B T D"]:
        """The tokens back in their places; 0 where there was padding."""
        flat = x.new_zeros(self.shape[0] * self.shape[1], x.shape[-1])
        return flat.index_copy(0, self.index, x[0]).view(*self.shape, -1)

    def labels(self, labels: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        """The labels that the token just before predicts, within one sequence; -100 elsewhere."""
        follows = self.index.diff(prepend=self.index[:1] - 2) == 1
        lengths = self.cu_seqlens.diff()
        follows[self.cu_seqlens[:-1][lengths > 0].long()] = False
        kept = self.index[follows]
        flat = labels.flatten()
        return torch.full_like(flat, -100).index_copy(0, kept, flat[kept]).view_as(labels)


def packing_of(shape: tuple[int, int], attention_mask: Tensor | None, cu_seqlens: Int[Tensor, " bounds"] | None,
               position_ids: Tensor | None) -> Packing | None:
    """How a batch of shape (B, T) must be packed; None if every row is one whole sequence.

    Args:
        attention_mask: [B, T or more], 0 at padding; of a longer one, which also covers earlier calls, the last T columns count.
        cu_seqlens: boundaries of sequences packed along time, with B = 1.
        position_ids: [B or 1, T]; each 0 starts another sequence.

    Raises:
        ValueError: if the mask has the wrong shape, or there is padding inside packed sequences.
    """
    batch, time = shape
    mask = None if attention_mask is None else _real_tokens(shape, attention_mask)
    if cu_seqlens is not None:
        if batch != 1:
            raise ValueError(f"Packed sequences come in a batch of 1, got {batch}. Concatenate them along time.")
        if mask is not None:
            raise ValueError("attention_mask marks padding inside packed sequences. Leave the padding out, or give padded rows without cu_seqlens.")
        return Packing(shape, torch.arange(time, device=cu_seqlens.device), cu_seqlens)
    if mask is not None:
        return Packing(shape, mask.flatten().nonzero()[:, 0], torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0)))
    if position_ids is None or not (position_ids[:, 1:] == 0).any():
        return None
    starts = (position_ids == 0).expand(shape).clone()
    starts[:, 0] = True
    bounds = starts.flatten().nonzero()[:, 0]
    return Packing(shape, torch.arange(batch * time, device=bounds.device), torch.nn.functional.pad(bounds, (0, 1), value=batch * time))


def _real_tokens(shape: tuple[int, int], attention_mask: Tensor) -> Tensor | None:
    """[B, T], True at real tokens; None if there is no padding."""
    batch, time = shape
    if attention_mask.ndim != 2 or attention_mask.shape[0] != batch or attention_mask.shape[1] < time:
        raise ValueError(f"attention_mask must have shape [{batch}, {time}], or more columns where earlier calls are covered, and 0 at padding; "
                         f"got {list(attention_mask.shape)}.")
    real = attention_mask[:, attention_mask.shape[1] - time :].bool()
    return None if real.all() else real
