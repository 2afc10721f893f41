"""Packing of batches whose rows are not one whole sequence each into the form that every memory accepts.

Padding never reaches a memory: the real tokens are packed into one row, [1, N, .], with the boundaries of
their sequences, and the outputs are scattered back to their positions. Only a compiled call, whose shapes
must not depend on numbers, keeps the padding, and moves it behind the tokens of its row, which do not read
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ttr.models import spellings
from ttr.torch_internals import assert_within_graph, one_graph, refuse_graph


@dataclass(frozen=True)
class Rows:
    """A batch [B, T] in which every row is one whole sequence, and a call takes it as it is.

    Attributes:
        shape: (B, T).
    """

    shape: tuple[int, int]
    cu_seqlens = None

    @property
    def sequences(self) -> int:
        """The number of sequences, each of which has a row in a state."""
        return self.shape[0]

    def pack(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """The batch as the memories take it."""
        return x

    def unpack(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """The tokens at their positions, 0 at padding."""
        return x

    def labels(self, labels: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        """The labels, set to -100 at tokens that do not directly follow a token of their own sequence."""
        return labels

    def last(self) -> Int[Tensor, " sequences"]:
        """Where in the flattened batch the last token of each sequence is.

        Raises:
            ValueError: if a sequence has none.
        """
        return (torch.arange(self.shape[0]) + 1) * self.shape[1] - 1

    @property
    def unpadded(self) -> int:
        """How many of the last columns hold no padding, with one sequence per row."""
        return self.shape[1]

    def tokens(self, device: torch.device) -> Bool[Tensor, "B T"] | None:
        """True at tokens and False at padding; None if a row holds several sequences."""
        return torch.ones(self.shape, dtype=torch.bool, device=device)


@dataclass(frozen=True)
class Packing(Rows):
    """The positions of the real tokens of a batch [B, T], and the sequences they form.

    Attributes:
        index: position of every real token in the flattened batch, rising.
        cu_seqlens: boundaries [0, ..., N] of the sequences among the real tokens.
    """

    index: Int[Tensor, " N"]
    cu_seqlens: Int[Tensor, " bounds"]

    @property
    def sequences(self) -> int:
        return len(self.cu_seqlens) - 1

    def pack(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "1 N D"]:
        return x.flatten(0, 1)[self.index][None]

    def unpack(self, x: Float[Tensor, "1 N D"]) -> Float[Tensor, "B T D"]:
        flat = x.new_zeros(self.shape[0] * self.shape[1], x.shape[-1])
        return flat.index_copy(0, self.index, x[0]).view(*self.shape, x.shape[-1])

    def labels(self, labels: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        follows = self.index.diff(prepend=self.index[:1] - 2) == 1
        lengths = self.cu_seqlens.diff()
        follows[self.cu_seqlens[:-1][lengths > 0].long()] = False
        kept = self.index[follows]
        flat = labels.flatten()
        return torch.full_like(flat, -100).index_copy(0, kept, flat[kept]).view_as(labels)

    def last(self) -> Int[Tensor, " sequences"]:
        empty = (self.cu_seqlens.diff() == 0).nonzero()[:, 0].tolist()
        if empty:
            raise ValueError(
                f"Sequences {empty} of this call have no token to read a label from. Leave them out."
            )
        return self.index[self.cu_seqlens[1:].long() - 1]

    @cached_property
    def unpadded(self) -> int:
        tokens = self.tokens(self.index.device)
        return 0 if tokens is None else int(tokens.all(0).flip(0).long().cumprod(0).sum())

    def tokens(self, device: torch.device) -> Bool[Tensor, "B T"] | None:
        if self.shape[0] != self.sequences:
            return None
        padding = torch.zeros(self.shape, dtype=torch.bool, device=device)
        return padding.flatten().index_fill(0, self.index, True).view(self.shape)


@dataclass(frozen=True)
class PaddingLast(Rows):
    """The tokens of every row in their order, then its padding, which causal memories read too late.

    Attributes:
        real: whether a token is no padding.
    """

    real: Bool[Tensor, "B T"]

    def tokens(self, device: torch.device) -> Bool[Tensor, "B T"]:
        return self.real

    def pack(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        order = (~self.real).byte().argsort(dim=1, stable=True)
        return x.gather(1, order[..., None].expand_as(x))  # take_along_dim fixes T when compiled

    def unpack(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        place = (self.real.cumsum(1) - 1).clamp(min=0)
        return torch.where(self.real[..., None], x.gather(1, place[..., None].expand_as(x)), 0.0)

    def labels(self, labels: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        follows = self.real[:, 1:] & self.real[:, :-1]
        return labels.masked_fill(~torch.nn.functional.pad(follows, (1, 0)), -100)

    def last(self) -> Int[Tensor, " sequences"]:
        column = torch.arange(self.shape[1], device=self.real.device)
        return torch.arange(self.shape[0], device=column.device) * self.shape[1] + (
            column * self.real
        ).argmax(1)


def packing_of(
    shape: tuple[int, int],
    *,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    seq_idx: Tensor | None = None,
    read: Int[Tensor, " rows"] | None = None,
    padding_last: bool = True,
    **bounds: Tensor | None,
) -> Rows:
    """The packing of a batch of shape (B, T).

    Args:
        attention_mask: [B, T or more], 0 at padding; of a longer mask, which also covers earlier calls, the
            last T columns are used. Numbers above 1 mark the sequences of a row, as in ``seq_idx``. Or
            [B or 1, 1, T, T or more]: the columns that every token reads, true, or 0 in a mask that is added
            to logits; these must be the tokens of its own sequence up to itself.
        position_ids: [T], [B or 1, T] or [axes, B or 1, T], rising by one from token to token. Where they do
            not, another sequence begins, at any number.
        seq_idx: [T] or [B or 1, T], the number of every token's sequence in its row, rising.
        read: how many tokens every sequence has read in earlier calls; None if they begin in this one.
        padding_last: whether padding may be moved behind the tokens, as compiled calls do: no state is kept,
            and no token reads later ones.
        bounds: boundaries [0, ..., T] of sequences packed along time, with B = 1, by the names of their
            arguments.

    Raises:
        ValueError: if one of them has an unknown form, or two contradict each other.
    """
    bounds = {name: x for name, x in bounds.items() if x is not None}
    position = None if position_ids is None else spellings.positions(shape, position_ids)
    if torch.compiler.is_compiling():
        packed = [*bounds, *(["seq_idx"] if seq_idx is not None else [])]
        if attention_mask is not None and not spellings.has_columns(attention_mask):
            packed.append("attention_mask")
        if not packed and (shape[1] == 1 or attention_mask is not None and padding_last or one_graph()):
            return _compiled(shape, attention_mask, position, read, padding_last)
        if packed and one_graph():
            refuse_graph(
                f"{' and '.join(packed)} can tell of several sequences in a row, whose number and lengths are"
                " data, so a single graph cannot depend on them. Compile without fullgraph=True, or put each "
                "sequence in its own row and pass an attention_mask [B, T] of 1 at tokens and 0 at padding."
            )
        # the call is split, and its sequences are packed between two graphs
    boundaries = spellings.boundaries(shape, bounds)
    mask, least, largest = spellings.numbered_mask(shape, attention_mask, read)
    numbers = {
        "attention_mask": mask if largest > 1 else None,
        "seq_idx": None if seq_idx is None else spellings.numbers(shape, "seq_idx", seq_idx)[0],
    }
    numbers = {name: x for name, x in numbers.items() if x is not None}
    # a token that continues a sequence begins none
    told = position is not None and (shape[1] != 1 or read is not None and not position.all())
    if least > 0 and not numbers and boundaries is None and not told:
        return Rows(shape)
    device = next(x.device for x in (mask, position, boundaries, *numbers.values()) if x is not None)
    tokens = spellings.real_tokens(shape, mask if least < 1 else None, device)
    return _packed(shape, tokens, numbers, boundaries, position, read)


def _packed(
    shape: tuple[int, int],
    tokens: spellings.RealTokens,
    numbers: Mapping[str, Int[Tensor, "B T"]],
    boundaries: Int[Tensor, " bounds"] | None,
    position: Int[Tensor, "axes B T"] | None,
    read: Int[Tensor, " rows"] | None,
) -> Rows:
    """The packing of the real tokens by all that is told of their sequences."""
    starts = {name: spellings.changes(name, x, tokens) for name, x in numbers.items()}
    cu_seqlens = None
    if boundaries is not None:
        cu_seqlens = torch.searchsorted(tokens.index, boundaries.to(tokens.index))
        starts["cu_seqlens"] = tokens.starts(cu_seqlens)
    if position is not None:
        starts["position_ids"] = spellings.restarts(position, tokens)
        if read is not None and cu_seqlens is not None:
            # a sequence may go on at the very number that follows that of another
            starts["position_ids"] |= starts["cu_seqlens"]
    begins = _agreed(starts) if starts else torch.zeros_like(tokens.inside)
    if cu_seqlens is None:
        rows = torch.searchsorted(tokens.row, torch.arange(shape[0] + 1, device=tokens.row.device))
        cu_seqlens = torch.cat([rows, begins.nonzero()[:, 0]]).sort().values
        if read is not None and begins.any() and len(cu_seqlens) - 1 != len(read):
            raise ValueError(
                f"This call has {len(cu_seqlens) - 1} sequences by {next(iter(starts))}, and the cache holds "
                f"the states of {len(read)}. Give as many, in the same order; boundaries cu_seqlens also say "
                "where one has no further token."
            )
    if position is not None and read is not None:
        spellings.check_going_on(position, tokens, cu_seqlens, read)
    whole = (
        boundaries is None and len(cu_seqlens) == shape[0] + 1 and len(tokens.index) == shape[0] * shape[1]
    )
    return Rows(shape) if whole else Packing(shape, tokens.index, cu_seqlens)


def _compiled(
    shape: tuple[int, int],
    attention_mask: Tensor | None,
    position: Int[Tensor, "axes B T"] | None,
    read: Int[Tensor, " rows"] | None,
    padding_last: bool,
) -> Rows:
    """The packing of a compiled call, in which every row must be one sequence; this and the numbers in the
    mask are checked when it runs."""
    real = None
    if attention_mask is not None:
        mask = spellings.columns(shape, attention_mask, read is not None)
        real = mask == 1
        assert_within_graph((real | (mask == 0)).all(), spellings.NEITHER_0_NOR_1_COMPILED)
    if position is not None:
        step = position.diff(dim=-1)
        follows = spellings.follows(step, torch.ones_like(step[0]))
        if real is not None:
            follows = follows | ~real[:, 1:] | ~real[:, :-1]
        assert_within_graph(
            follows.all(),
            "position_ids begin another sequence inside a row, and a compiled call takes one sequence per "
            "row. Put every sequence in its own row, or compile without fullgraph=True and give boundaries "
            "cu_seqlens.",
        )
        if read is not None and len(read) == shape[0]:
            begins = (position[..., 0] == 0).all(0)
            assert_within_graph((~begins | (read == 0)).all(), spellings.BEGINS_AGAIN)
    if real is None:
        return Rows(shape)
    if padding_last:
        return PaddingLast(shape, real)
    assert_within_graph(
        real.all(),
        "A compiled call with a cache takes no padding, which would enter its states. Leave padded rows out "
        "of the batch, or read prompts of several lengths without fullgraph=True.",
    )
    return Rows(shape)


def _agreed(starts: Mapping[str, Bool[Tensor, " N"]]) -> Bool[Tensor, " N"]:
    """The tokens at which sequences begin."""
    first, *others = starts
    for other in others:
        if not torch.equal(starts[first], starts[other]):
            raise ValueError(
                f"{first} and {other} contradict each other about where sequences begin. Give one of them."
            )
    return starts[first]
