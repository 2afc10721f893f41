"""The tokens before a shard, which earlier processes hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.distributed.communication import connected, nothing, receive, send
from ttr.distributed.shard import SequenceShard
from ttr.layer.sequences import Sequences


@dataclass(frozen=True, kw_only=True)
class ShardSequences(Sequences):
    """The sequences of a shard. What the parts of a layer need of earlier tokens, the last of them or a sum
    of all, comes from the process before."""

    shard: SequenceShard

    def before(self, streams: Mapping[str, Tensor], tails: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        inputs = nothing(*streams.values())
        past = max(tail.shape[1] for tail in tails.values())
        # what the next process needs then does not depend on what this one gets, and it need not wait
        own = self.shard.last[self.shard.rank] >= past
        sent = self._send_tails(streams, tails, inputs) if own else []
        received = self._received(list(tails.values()), inputs)
        before = dict(zip(tails, received))
        sent = sent if own else self._send_tails(streams, before, inputs)
        return {name: connected(tail, *sent) for name, tail in before.items()}

    def _send_tails(
        self, streams: Mapping[str, Tensor], before: Mapping[str, Tensor], inputs: Tensor
    ) -> list[Tensor]:
        return self._send([self.tail(streams[name], tail) for name, tail in before.items()], inputs)

    def running_sum(
        self, x: Float[Tensor, "B T *stream"], start: Float[Tensor, " N *stream"]
    ) -> tuple[Float[Tensor, "B T *stream"], Float[Tensor, " N *stream"]]:
        inputs = nothing(x)
        sums, totals = super().running_sum(x, self._received([start], inputs)[0])
        return connected(sums, *self._send([totals], inputs)), totals

    def _received(self, of_none: Sequence[Tensor], inputs: Tensor) -> Sequence[Tensor]:
        """Tensors with a row for every sequence: of one that begins here that in ``of_none``, and of one that
        earlier processes have begun what the process before sends."""
        shard = self.shard
        if not shard.earlier:
            return of_none
        like = [x[:1] if shard.packed else x for x in of_none]
        first = receive(like, inputs, shard.group, shard.rank - 1)
        return [torch.cat([begun, x[len(begun) :]]) for begun, x in zip(first, of_none)]

    def _send(self, tensors: Sequence[Tensor], inputs: Tensor) -> list[Tensor]:
        """Pass the rows of the sequences on with which the next process goes on, and return what is to be
        connected."""
        shard = self.shard
        if not shard.passes_on:
            return []
        last = [x[-1:] if shard.packed else x for x in tensors]
        return [send(last, inputs, shard.group, shard.rank + 1)]
