"""One token of a memory that is a matrix S, which is read once for the error and for the read-out, and in place if the call owns it.

With found = S_x^T p and the decay D, the memory after a pair, D S + step (k v^T - e found^T), reads at q

    y = (D S)^T q - step (q.e) found + step (q.k) v
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ttr.backends.lowering import finish, linear_form, widen_state
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


class Pair(NamedTuple):
    """A pair and the query after it: query, key, read, erase [B,H,F], value [B,H,V], step [B,H], log_decay [B,H] or [B,H,F], bonus [H,F];
    see ``LinearForm``."""

    query: Tensor
    key: Tensor
    value: Tensor
    read: Tensor | None
    erase: Tensor | None
    step: Tensor | None
    log_decay: Tensor | None
    bonus: Tensor | None = None


def advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    form, memory = linear_form(problem, x), widen_state(problem, x)
    for j in range(form.pairs):
        parts = (None if part is None else part[:, j] for part in (form.key, form.value, form.read, form.erase, form.step, form.log_decay))
        y, memory = learn(Pair(form.query[:, 0], *parts, form.bonus), memory, form.gradient_at == "old", x.owns_state)
    return finish(problem, x, y[:, None], memory, form)


def learn(pair: Pair, memory: Tensor, old: bool, inplace: bool) -> tuple[Tensor, Tensor]:
    """The read-out [B,H,V] at the query and the memory [B,H,F,V] after the pair."""
    query, key, value, read, erase, step, log_decay, bonus = pair
    kept = None if log_decay is None else _per_feature(log_decay.exp())

    def decayed(row: Tensor) -> Tensor:
        return row if kept is None else row * kept

    written = value if step is None else step[..., None] * value
    rows = [decayed(query) if bonus is None else query, *([] if read is None else [read if old else decayed(read)])]
    y, *found = (torch.stack(rows, dim=2) @ memory).unbind(dim=2)
    erased = [row if step is None else step[..., None] * row for row in found]
    if erased and erase is None:
        written, erased = written - erased[0], []
    y = y + (_dot(query, key) * written if bonus is None else _dot(query, bonus * key) * value)
    kept = memory if kept is None else memory.mul_(kept[..., None]) if inplace else memory * kept[..., None]
    after = _outer_sum(kept, key, written, inplace)
    for row in erased:
        y = y if bonus is not None else y - _dot(query, erase) * row
        after = _outer_sum(after, -erase, row, inplace)
    return y, after


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
