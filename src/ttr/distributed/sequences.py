"""The tokens before a shard, which earlier processes hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.distributed.communication import connected, gather
from ttr.distributed.shard import SequenceShard
from ttr.layer.sequences import Sequences


@dataclass(frozen=True, kw_only=True)
class ShardSequences(Sequences):
    """The sequences of a shard. What the parts of a layer need of earlier tokens, the last of them or a sum
    of all, is gathered from all processes."""

    shard: SequenceShard

    def before(self, streams: Mapping[str, Tensor], tails: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if not self.shard.exchanges:
            return tails
        own = [self._of_last(self.tail(streams[name], tail)) for name, tail in tails.items()]
        wide = [torch.promote_types(tail.dtype, torch.float32) for tail in own]
        gathered = gather(
            torch.cat([tail.to(dtype).flatten() for tail, dtype in zip(own, wide)]), self.shard.group
        )
        parts = gathered.split([tail.numel() for tail in own], dim=1)
        return {
            name: self._with_first(tail, self._newest(part.unflatten(1, like.shape).to(tail), gathered))
            for (name, tail), part, like in zip(tails.items(), parts, own)
        }

    def _newest(
        self, tails: Float[Tensor, "processes rows past *stream"], gathered: Tensor
    ) -> Float[Tensor, "rows past *stream"]:
        """The last tokens before this shard, zeros before the first of a sequence."""
        past = tails.shape[2]
        held = [tails[each, :, past - min(past, self.shard.last[each]) :] for each in self.shard.earlier]
        nothing = connected(torch.zeros_like(tails[0]), gathered)
        return torch.cat([nothing, *held], dim=1)[:, -past:]

    def running_sum(
        self, x: Float[Tensor, "B T *stream"], start: Float[Tensor, " N *stream"]
    ) -> tuple[Float[Tensor, "B T *stream"], Float[Tensor, " N *stream"]]:
        sums, totals = super().running_sum(x, start)
        if not self.shard.exchanges:
            return sums, totals
        own, earlier = self._of_last(totals), self.shard.earlier
        gathered = gather(own.flatten(), self.shard.group).unflatten(1, own.shape)
        before = gathered[earlier.start : earlier.stop].sum(0)
        return super().running_sum(x, self._with_first(start, before))

    def _of_last(self, x: Float[Tensor, " N *stream"]) -> Float[Tensor, " rows *stream"]:
        """The rows of the sequences that another process may go on with."""
        return x[-1:] if self.shard.packed else x

    def _with_first(
        self, x: Float[Tensor, " N *stream"], first: Float[Tensor, " rows *stream"]
    ) -> Float[Tensor, " N *stream"]:
        """x with the rows of the sequences that earlier processes have begun replaced."""
        return torch.cat([first, x[len(first) :]])
