"""One token of a memory that is a matrix S, in place if the call owns it.

With found = S_x^T p and the decay D, the memory after a pair is S' = D S + step (k v^T - e found^T). Moving S
is what takes the time, so every pass over it counts. What S' reads at q is S'^T q, one more pass, or, told
before S is written,

    y = S^T (D q) + step ((q.k) v - (q.e) found)

which takes small operations instead: dear where each is a call, nothing to a compiler, which makes one pass
of the two reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State

Look = Callable[[Tensor, Tensor], Tensor]
"""(S [B,H,F,V], row [B,H,F]) -> S^T row [B,H,V]."""


def look_up(memory: Tensor, row: Tensor) -> Tensor:
    return (row[..., None, :] @ memory)[..., 0, :]


def look_of(memory: Tensor) -> Look:
    """The fastest for contiguous memories like this one on the CPU, without derivatives. S^T row is a sum of
    weighted rows, which is what torch's embedding bag gives: it reads them as they lie, where a batched
    product of MKL packs them first."""
    batch, heads, features, values = memory.shape
    if memory.dtype is not torch.float32 or memory.numel() == 0:
        return look_up
    rows = torch.arange(batch * heads * features)
    starts = rows[::features].contiguous()

    def look(memory: Tensor, row: Tensor) -> Tensor:
        return torch.embedding_bag(memory.view(-1, values), rows, starts, False, 0, False, row.view(-1))[
            0
        ].view(batch, heads, values)

    return look


class Pair(NamedTuple):
    """Key, read, erase [B,H,F], value [B,H,V], step [B,H], log_decay [B,H] or [B,H,F]; see
    ``LinearRecurrence``."""

    key: Tensor
    value: Tensor
    read: Tensor | None
    erase: Tensor | None
    step: Tensor | None
    log_decay: Tensor | None


class Change(NamedTuple):
    """What a pair does to a memory: kept [B,H,1] or [B,H,F] of it, written and erased [B,H,V], at its key and
    its erase key."""

    kept: Tensor | None
    written: Tensor
    erased: Tensor | None


def advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    form = problem.lower(x)
    memory = form.memory
    query, y = form.scaled_query[:, 0], None
    if form.reads_first:
        y = look_up(memory, query)
    for j in range(form.pairs):
        pair = Pair(
            *(
                None if part is None else part[:, j]
                for part in (form.key, form.value, form.read, form.erase, form.step, form.log_decay)
            )
        )
        change = change_by(pair, memory, form.old, look_up)
        if y is None and j == form.pairs - 1:
            y = foretold(query, pair, change, memory)
        memory = changed(pair, change, memory, x.owns_state)
    return form.finish(x, y[:, None], memory)


def change_by(pair: Pair, memory: Tensor, old: bool, look: Look) -> Change:
    key, value, read, erase, step, log_decay = pair
    kept = None if log_decay is None else _per_feature(log_decay.exp())

    def sized(row: Tensor) -> Tensor:
        return row if step is None else step[..., None] * row

    found = None if read is None else look(memory, read if old or kept is None else read * kept)
    if erase is not None:
        return Change(kept, sized(value), sized(found))
    return Change(kept, sized(value if found is None else value - found), None)


def changed(pair: Pair, change: Change, memory: Tensor, inplace: bool) -> Tensor:
    """The memory [B,H,F,V] after the pair."""
    if change.kept is not None:
        memory = memory.mul_(change.kept[..., None]) if inplace else memory * change.kept[..., None]
    memory = _outer_sum(memory, pair.key, change.written, inplace)
    return memory if change.erased is None else _outer_sum(memory, -pair.erase, change.erased, inplace)


def foretold(query: Tensor, pair: Pair, change: Change, memory: Tensor) -> Tensor:
    """What the memory after the pair will read at the query, [B,H,V]."""
    y = (
        look_up(memory, query if change.kept is None else query * change.kept)
        + _dot(query, pair.key) * change.written
    )
    return y if change.erased is None else y - _dot(query, pair.erase) * change.erased


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)


def _outer_sum(memory: Tensor, key: Tensor, value: Tensor, inplace: bool) -> Tensor:
    """memory + key value^T."""
    add = memory.addcmul_ if inplace else memory.addcmul
    return add(key[..., None], value[..., None, :])


def _per_feature(x: Tensor) -> Tensor:
    """[B,H] or [B,H,F] to be multiplied with [B,H,F]."""
    return x if x.ndim == 3 else x[..., None]


def decay(memory: Tensor, log_decay: Tensor | None) -> Tensor:
    """Shrink [B,H,F,V] by exp of [B,H] or [B,H,F]."""
    return memory if log_decay is None else memory * _per_feature(log_decay.exp())[..., None]
