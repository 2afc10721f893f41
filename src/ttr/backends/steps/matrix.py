"""One token of a memory that is a matrix S, in place if the call owns it.

With found = S_x^T p and the decay D, the memory after a pair is D S + step (k v^T - e found^T), and what it reads at q is y. Every pass over
S counts, since moving it is what takes the time: two that read a row (S^T p, S^T q), one that fades, one for each outer product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ttr.backends.lowering import finish, linear_form, widen_state
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


Look = Callable[[Tensor, Tensor], Tensor]
"""(S [B,H,F,V], row [B,H,F]) -> S^T row [B,H,V]."""


def look_up(memory: Tensor, row: Tensor) -> Tensor:
    return (row[..., None, :] @ memory)[..., 0, :]


def look_of(memory: Tensor) -> Look:
    """The fastest for contiguous memories like this one on the CPU, without derivatives. S^T row is a sum of weighted rows, which is what
    torch's embedding bag gives: it reads them as they lie, where a batched product of MKL packs them first."""
    batch, heads, features, values = memory.shape
    if memory.dtype is not torch.float32 or memory.numel() == 0:
        return look_up
    rows = torch.arange(batch * heads * features)
    starts = rows[::features].contiguous()

    def look(memory: Tensor, row: Tensor) -> Tensor:
        return torch.embedding_bag(memory.view(-1, values), rows, starts, False, 0, False, row.view(-1))[0].view(batch, heads, values)

    return look


class Pair(NamedTuple):
    """Key, read, erase [B,H,F], value [B,H,V], step [B,H], log_decay [B,H] or [B,H,F]; see ``LinearForm``."""

    key: Tensor
    value: Tensor
    read: Tensor | None
    erase: Tensor | None
    step: Tensor | None
    log_decay: Tensor | None


def advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    form, memory = linear_form(problem, x), widen_state(problem, x)
    query, y = form.query[:, 0], None
    if form.bonus is not None:  # reads before it learns
        key, value = form.key[:, 0], form.value[:, 0]
        y = look_up(memory, query) + (query * form.bonus * key).sum(-1, keepdim=True) * value
    for j in range(form.pairs):
        parts = (None if part is None else part[:, j] for part in (form.key, form.value, form.read, form.erase, form.step, form.log_decay))
        memory = learn(Pair(*parts), memory, form.gradient_at == "old", x.owns_state)
    y = look_up(memory, query) if y is None else y
    return finish(problem, x, y[:, None], memory, form)


def learn(pair: Pair, memory: Tensor, old: bool, inplace: bool, look: Look = look_up) -> Tensor:
    """The memory [B,H,F,V] after the pair."""
    key, value, read, erase, step, log_decay = pair
    kept = None if log_decay is None else _per_feature(log_decay.exp())

    def sized(row: Tensor) -> Tensor:
        return row if step is None else step[..., None] * row

    found = None if read is None else look(memory, read if old or kept is None else read * kept)
    written = sized(value if found is None or erase is not None else value - found)
    if kept is not None:
        memory = memory.mul_(kept[..., None]) if inplace else memory * kept[..., None]
    memory = _outer_sum(memory, key, written, inplace)
    return memory if erase is None else _outer_sum(memory, -erase, sized(found), inplace)


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
