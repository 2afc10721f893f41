"""One token of a memory that is a matrix S, in place if the call owns it.

With found = S_x^T p and the decay D, the memory after a pair is S' = D S + step (k v^T - e found^T). Memory
traffic of S dominates the time, so every pass over it counts. The read-out S'^T q is one more pass, or,
computed before S is written,

    y = S^T (D q) + step ((q.k) v - (q.e) found)

which takes small operations instead: expensive where each is a call, free under a compiler, which fuses the
two reads into one pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State

Read = Callable[[Tensor, Tensor], Tensor]
"""(S [B,H,F,V], row [B,H,F]) -> S^T row [B,H,V]."""


def read_memory(memory: Tensor, row: Tensor) -> Tensor:
    return (row[..., None, :] @ memory)[..., 0, :]


def fastest_read(memory: Tensor) -> Read:
    """The fastest read for contiguous memories of this shape on the CPU, without gradients. S^T row is a sum
    of weighted rows, which is what torch's embedding bag gives: it reads them in place, where a batched
    product of MKL packs them first."""
    batch, heads, features, values = memory.shape
    if memory.dtype is not torch.float32 or memory.numel() == 0:
        return read_memory
    rows = torch.arange(batch * heads * features)
    starts = rows[::features].contiguous()

    def read(memory: Tensor, row: Tensor) -> Tensor:
        return torch.embedding_bag(memory.view(-1, values), rows, starts, False, 0, False, row.view(-1))[
            0
        ].view(batch, heads, values)

    return read


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
    """The update of a memory by a pair: the ``decay`` [B,H,1] or [B,H,F], and the rows written at its
    key and erased at its erase key, [B,H,V]."""

    decay: Tensor | None
    written: Tensor
    erased: Tensor | None


def advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    form = problem.lower(x)
    memory = form.memory
    query, y = form.scaled_query[:, 0], None
    if form.reads_first:
        y = read_memory(memory, query)
    for j in range(form.pairs):
        pair = Pair(
            *(
                None if part is None else part[:, j]
                for part in (form.key, form.value, form.read, form.erase, form.step, form.log_decay)
            )
        )
        change = change_by(pair, memory, form.old, read_memory)
        if y is None and j == form.pairs - 1:
            y = read_after(query, pair, change, memory)
        memory = changed(pair, change, memory, x.owns_state)
    return form.finish(x, y[:, None], memory)


def change_by(pair: Pair, memory: Tensor, old: bool, read_at: Read) -> Change:
    key, value, read, erase, step, log_decay = pair
    factor = None if log_decay is None else _per_feature(log_decay.exp())

    def sized(row: Tensor) -> Tensor:
        return row if step is None else step[..., None] * row

    found = None if read is None else read_at(memory, read if old or factor is None else read * factor)
    if erase is not None:
        return Change(factor, sized(value), sized(found))
    return Change(factor, sized(value if found is None else value - found), None)


def changed(pair: Pair, change: Change, memory: Tensor, inplace: bool) -> Tensor:
    """The memory [B,H,F,V] after the pair."""
    if change.decay is not None:
        memory = memory.mul_(change.decay[..., None]) if inplace else memory * change.decay[..., None]
    memory = _outer_sum(memory, pair.key, change.written, inplace)
    return memory if change.erased is None else _outer_sum(memory, -pair.erase, change.erased, inplace)


def read_after(query: Tensor, pair: Pair, change: Change, memory: Tensor) -> Tensor:
    """The read-out at the query of the memory after the pair, computed from the memory before, [B,H,V]."""
    y = (
        read_memory(memory, query if change.decay is None else query * change.decay)
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
    """[B,H] or [B,H,F], to be broadcast with [B,H,F]."""
    return x if x.ndim == 3 else x[..., None]


def decay(memory: Tensor, log_decay: Tensor | None) -> Tensor:
    """[B,H,F,V] times exp of [B,H] or [B,H,F]."""
    return memory if log_decay is None else memory * _per_feature(log_decay.exp())[..., None]
