"""The stretch of the sequences that layers compute inside a ``with`` block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from ttr.distributed.stretch import Stretch

_current: ContextVar[Stretch | None] = ContextVar("ttr_stretch", default=None)


def current() -> Stretch | None:
    """The stretch of the innermost block; None outside of one."""
    return _current.get()


@contextlib.contextmanager
def sequence_parallel(stretch: Stretch) -> Iterator[Stretch]:
    """Inside the block every ``Mixer`` takes its input as this stretch of longer sequences, and exchanges
    with the other processes what it needs of theirs. Calls begin with empty memories and take no
    ``cu_seqlens``, which the stretch has; a state that is returned is the one after the stretch, with a row
    for each of its sequences."""
    token = _current.set(stretch)
    try:
        yield stretch
    finally:
        _current.reset(token)
