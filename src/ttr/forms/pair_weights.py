"""The log weights of pairs for blocks of queries: the position weights that attention adds to its logits."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ttr.forms.sums import running_sum
from ttr.inputs import Inputs
from ttr.slots import append_pairs, pair_index
from ttr.state_tensors import StateTensors


@dataclass(frozen=True)
class CumulativeDecay:
    """Sums of a log decay along its last axis, with the resets (-inf) taken out and counted.

    log gamma between tokens i < t is total_t - total_i, and -inf where their reset counts differ. Differences
    of sums cancel, so the sums are float64 where the device has it.
    """

    total: Float[Tensor, "*lead T"]
    resets: Int[Tensor, "*lead T"]

    @staticmethod
    def of(log_decay: Float[Tensor, "*lead T"]) -> CumulativeDecay:
        """The sums of [..., T]; a reset gets gradient 0."""
        wide = log_decay.dtype if log_decay.device.type == "mps" else torch.float64
        reset = log_decay == -torch.inf
        return CumulativeDecay(running_sum(torch.where(reset, 0.0, log_decay).to(wide)), reset.cumsum(-1))

    def between(self, write: slice, read: slice) -> Float[Tensor, "*lead C N"]:
        """Log decay from the tokens of ``write``, where pairs are written, to those of ``read``; meaningless
        where write > read."""
        log_decay = self.total[..., read, None] - self.total[..., None, write]
        return log_decay.masked_fill(
            self.resets[..., read, None] != self.resets[..., None, write], -torch.inf
        )

    def within(self, start: int, stop: int, out: Float[Tensor, "*lead C C"]) -> Float[Tensor, "*lead C C"]:
        """``between`` for the tokens start..stop, written to ``out`` in its dtype and cheaper: the sums are
        split into a rounded part and its rest, whose differences are rounded relative to themselves."""
        total, resets = self.total[..., start:stop], self.resets[..., start:stop]
        rounded = total.to(out)
        rest = (total - rounded).to(out)
        torch.sub(rounded[..., None], rounded[..., None, :], out=out).add_(rest[..., None]).sub_(
            rest[..., None, :]
        )
        if (resets[..., 0] == resets[..., -1]).all():
            return out
        return out.masked_fill_(resets[..., None] != resets[..., None, :], -torch.inf)

    def since(self, start: int, stop: int) -> Float[Tensor, "*lead C"]:
        """Log decay from the border before token ``start`` to the tokens start..stop."""
        if start == 0:
            return self.since_start()[..., :stop]
        total, resets = (x[..., start - 1 : stop] for x in (self.total, self.resets))
        return (total[..., 1:] - total[..., :1]).masked_fill(resets[..., 1:] != resets[..., :1], -torch.inf)

    def since_start(self) -> Float[Tensor, "*lead T"]:
        """Log decay of the incoming state at every token."""
        return self.total.masked_fill(self.resets > 0, -torch.inf)

    def to_end(self, stop: int | None = None) -> Float[Tensor, "*lead T"]:
        """Log decay from every token to the last one, or to the last before ``stop``."""
        total, resets = self.total[..., :stop], self.resets[..., :stop]
        return (total[..., -1:] - total).masked_fill(resets[..., -1:] != resets, -torch.inf)


@dataclass(frozen=True)
class PairWeights:
    """The log weights of past pairs (slots of the state) and new ones (tokens of the call), for blocks of
    reading tokens.

    ``past`` [B,H,N] are the log weights of the slots before the call, ``age`` [B,N] the position of a slot's
    pair relative to the call's first token (negative). ``decay`` and ``importance`` [B,H,T] are None without
    a decay or importances.
    """

    past: Float[Tensor, "B H N"]
    age: Int[Tensor, "B N"]
    decay: CumulativeDecay | None
    importance: Float[Tensor, "B H T"] | None
    window: int | None

    @staticmethod
    def of(window: int | None, x: Inputs) -> PairWeights:
        """The weights of a call whose memory stores pairs."""
        decay = None if x.log_decay is None else CumulativeDecay.of(x.log_decay.mT)
        importance = None if x.log_importance is None else x.log_importance.mT
        return PairWeights(
            x.state["log_weight"].mT,
            pair_index(x.state, window) - x.state.position[:, None],
            decay,
            importance,
            window,
        )

    @property
    def slots(self) -> int:
        return self.past.shape[-1]

    def of_slots(self, count: int) -> PairWeights:
        """The weights with at most the first ``count`` slots."""
        return dataclasses.replace(self, past=self.past[..., :count], age=self.age[:, :count])

    @property
    def plain(self) -> bool:
        """Whether all weights are 1: the state holds no pairs, and there are no decay, importance or
        window."""
        return self.slots == 0 and self.decay is None and self.importance is None and self.window is None

    def first_seen(self, start: int) -> int:
        """The index, among the slots followed by the new tokens, of the first pair visible from token
        ``start`` on."""
        return (
            0
            if self.window is None or start < self.window - 1
            else self.past.shape[-1] + start - self.window + 1
        )

    def seen(self, pairs: Float[Tensor, "B h M d"], start: int, stop: int) -> Float[Tensor, "B h P d"]:
        """Of slots followed by new tokens, those visible to the tokens start..stop: the columns of
        ``block``."""
        return pairs[:, :, self.first_seen(start) : self.past.shape[-1] + stop]

    def block(self, start: int, stop: int) -> Float[Tensor, "#B #H C P"]:
        """Log weights, for the tokens start..stop, of the slots and new tokens that ``seen`` selects; -inf
        where masked."""
        first = self.first_seen(start) - self.past.shape[-1]
        slots, first = max(-first, 0), max(first, 0)
        read = torch.arange(start, stop, device=self.past.device)[:, None]
        write = torch.arange(first, stop, device=self.past.device)
        hidden = write > read if self.window is None else (write > read) | (write <= read - self.window)
        new = torch.zeros(hidden.shape, dtype=self.past.dtype, device=hidden.device).masked_fill(
            hidden, -torch.inf
        )[None, None]
        if self.decay is not None:
            new = new + self.decay.between(slice(first, stop), slice(start, stop)).to(new)
        if self.importance is not None:
            new = new + self.importance[..., None, first:stop]
        if slots == 0:
            return new
        past = self.past[:, :, None]
        if self.decay is not None:
            past = past + self.decay.since_start()[..., start:stop, None].to(past)
        if self.window is not None:
            past = past.masked_fill((self.age[:, None] + self.window <= read)[:, None], -torch.inf)
        shape = (*self.past.shape[:2], stop - start)
        return torch.cat([past.expand(*shape, -1), new.expand(*shape, -1)], dim=-1)

    def own(
        self, start: int, stop: int, out: Float[Tensor, "B H C C"] | None
    ) -> Float[Tensor, "B H #C C"] | None:
        """The log weights of ``block`` for the tokens start..stop among themselves, without the masks of
        window and causality; if there is a decay they are written to ``out``."""
        importance = None if self.importance is None else self.importance[..., None, start:stop]
        if self.decay is None:
            return importance
        log_weight = self.decay.within(start, stop, out)
        return log_weight if importance is None else log_weight.add_(importance)

    def earlier(self, start: int) -> Float[Tensor, "B H 1 P"]:
        """The log weights of the slots and tokens before ``start``, decayed up to that border: plus
        ``decay.since`` they are those of ``block``, without the mask of a window."""
        past = self.past
        new = (
            past.new_zeros(*past.shape[:2], start)
            if self.importance is None
            else self.importance[..., :start]
        )
        if self.decay is not None and start:
            past = past + self.decay.since_start()[..., start - 1 : start].to(past)
            new = new + self.decay.to_end(start).to(past)
        return torch.cat([past, new], dim=-1)[:, :, None]

    def final_state(self, x: Inputs) -> StateTensors:
        """The state after the call: its pairs with their weights at the last token. If the caller does not
        want it, it is made only for a fixed capacity, to raise the error of a full state."""
        if not x.wants_state and x.state.capacity is None:
            return x.state
        weight = x.own_log_weight
        if self.decay is None or x.length == 0:
            return append_pairs(x.state, self.window, x.k, x.v, weight, None)
        weight = weight + self.decay.to_end().mT.to(weight)
        return append_pairs(
            x.state, self.window, x.k, x.v, weight, self.decay.since_start()[..., -1].to(weight)
        )


def probabilities(logits: Float[Tensor, "*lead N"], may_be_empty: bool) -> Float[Tensor, "*lead N"]:
    """Softmax over the pairs, or all 0 in a row in which every pair has weight 0, which takes an importance
    of 0 for the token's own pair."""
    if not may_be_empty:
        return logits.softmax(-1)
    empty = (logits == -torch.inf).all(-1, keepdim=True)
    return logits.masked_fill(empty, 0.0).softmax(-1).masked_fill(empty, 0.0)
