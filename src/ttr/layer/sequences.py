"""The assignment of a call's tokens to sequences, and the tokens before them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Sequences:
    """The sequences of a call [B,T]: one per row, or, with ``cu_seqlens`` [0, ..., T], several packed in one
    row.

    ``start`` [N] counts the tokens that each sequence has seen in earlier calls.
    """

    time: int
    start: Int[Tensor, " N"]
    cu_seqlens: Int[Tensor, " bounds"] | None = None

    @property
    def row(self) -> Int[Tensor, " T"]:
        """The sequence of every token of a packed call."""
        index = torch.arange(len(self.start), device=self.start.device)
        return index.repeat_interleave(self.cu_seqlens.diff().to(self.start.device), output_size=self.time)

    def positions(self) -> Int[Tensor, "B T"]:
        """The number of every token in its sequence, from 0."""
        token = torch.arange(self.time, device=self.start.device)
        if self.cu_seqlens is None:
            return self.start[:, None] + token
        return (token + (self.start - self.cu_seqlens[:-1].to(self.start))[self.row])[None]

    def lengths(self) -> Int[Tensor, " N"]:
        """Tokens of this call in every sequence."""
        return (
            torch.full_like(self.start, self.time)
            if self.cu_seqlens is None
            else self.cu_seqlens.diff().to(self.start)
        )

    def extend(
        self, x: Float[Tensor, "B T *stream"], tail: Float[Tensor, "N past *stream"]
    ) -> Float[Tensor, "B extended *stream"]:
        """x with the last tokens of earlier calls prepended to every sequence."""
        if self.cu_seqlens is None:
            return torch.cat([tail, x], dim=1)
        places = torch.cat([self._places(tail.shape[1]), self._tail_places(tail.shape[1])])
        return torch.cat([x[0], tail.flatten(0, 1)])[torch.argsort(places)][None]

    def tokens(self, x: Float[Tensor, "B extended *stream"], past: int) -> Float[Tensor, "B T *stream"]:
        """The outputs at the call's tokens of a convolution over ``past`` + 1 tokens of an extended
        stream."""
        return x if self.cu_seqlens is None else x[:, self._places(past) - past]

    def tail(
        self, x: Float[Tensor, "B T *stream"], tail: Float[Tensor, "N past *stream"]
    ) -> Float[Tensor, "N past *stream"]:
        """The last tokens of every sequence, as many as ``tail`` has, those of earlier calls included."""
        past = tail.shape[1]
        if self.cu_seqlens is None:
            # a graph for any T must not ask whether the call has as many tokens as the tail
            newest = x if torch.compiler.is_compiling() else x[:, -past:]
            rows = [tail.flatten(2), newest.flatten(2)]  # as the convolution joins them
            return torch.cat(rows, dim=1)[:, -past:].reshape(tail.shape)
        if self.time == 0:
            return tail
        rows, ends = torch.arange(len(tail), device=x.device)[:, None], self.cu_seqlens[1:].to(self.start)
        # position in the sequence's part of this call; negative for tokens of earlier calls
        place = torch.arange(-past, 0, device=x.device) + self.lengths()[:, None]
        newest = x[0, (place - self.lengths()[:, None] + ends[:, None]).clamp(min=0)]
        return torch.where(
            place.reshape(*place.shape, *(1,) * (x.ndim - 2)) < 0,
            tail[rows, (place + past).clamp(max=past - 1)],
            newest,
        )

    def before(self, streams: Mapping[str, Tensor], tails: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tokens [N,past,...] before those of every sequence of this call: ``tails``, of earlier
        calls."""
        return tails

    def running_sum(
        self, x: Float[Tensor, "B T *stream"], start: Float[Tensor, " N *stream"]
    ) -> tuple[Float[Tensor, "B T *stream"], Float[Tensor, " N *stream"]]:
        """The running sums of x within every sequence, starting from the sums of earlier calls, and the last
        sum of every sequence."""
        if self.cu_seqlens is None:
            sums = torch.cat([start[:, None], x], dim=1).cumsum(1)
            return sums[:, 1:], sums[:, -1]
        bounds = self.cu_seqlens.to(self.start)
        total = torch.cat([x.new_zeros(1, *x.shape[2:]), x[0]]).cumsum(0)
        before = start - total[bounds[:-1]]
        return (total[1:] + before[self.row])[None], total[bounds[1:]] + before

    def _places(self, past: int) -> Int[Tensor, " T"]:
        """The positions of the call's tokens in an extended packed stream."""
        return torch.arange(self.time, device=self.start.device) + past * (self.row + 1)

    def _tail_places(self, past: int) -> Int[Tensor, " tails"]:
        """The positions of the tokens of earlier calls in an extended packed stream."""
        rows = torch.arange(len(self.start), device=self.start.device)
        first = self.cu_seqlens[:-1].to(self.start) + past * rows
        return (first[:, None] + torch.arange(past, device=self.start.device)).flatten()
