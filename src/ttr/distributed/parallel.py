"""The shard of the sequences that layers compute inside a ``with`` block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ttr.distributed.shard import SequenceShard

# of the whole process: backward passes run in threads of their own, and torch.compile traces no ContextVar
_shards: list[SequenceShard] = []


def current() -> SequenceShard | None:
    """The shard of the innermost block; None outside of one."""
    return _shards[-1] if _shards else None


@contextlib.contextmanager
def sequence_parallel(shard: SequenceShard) -> Iterator[SequenceShard]:
    """Inside the block, in all threads, every ``Mixer`` takes its input as this shard of longer sequences,
    and exchanges with the other processes what it needs of theirs. Calls begin with empty memories and take
    no ``cu_seqlens``, which the shard has; a state that is returned is the one after the shard, with a
    row for each of its sequences. Decoders return no caches, and nothing decodes token by token."""
    _shards.append(shard)
    try:
        yield shard
    finally:
        _shards.pop()
