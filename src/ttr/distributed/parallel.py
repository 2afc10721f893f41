"""The stretch of the sequences that layers compute inside a ``with`` block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ttr.distributed.stretch import Stretch

# of the whole process: backward passes run in threads of their own, and torch.compile traces no ContextVar
_stretches: list[Stretch] = []


def current() -> Stretch | None:
    """The stretch of the innermost block; None outside of one."""
    return _stretches[-1] if _stretches else None


@contextlib.contextmanager
def sequence_parallel(stretch: Stretch) -> Iterator[Stretch]:
    """Inside the block, in all threads, every ``Mixer`` takes its input as this stretch of longer sequences,
    and exchanges with the other processes what it needs of theirs. Calls begin with empty memories and take
    no ``cu_seqlens``, which the stretch has; a state that is returned is the one after the stretch, with a
    row for each of its sequences."""
    _stretches.append(stretch)
    try:
        yield stretch
    finally:
        _stretches.pop()
