"""One token of a memory that is a matrix S, which is read once for the error and for the read-out, and in place if the call owns it.

With found = S_x^T p and the decay D, the memory after a pair, D S + step (k v^T - e found^T), reads at q

    y = (D S)^T q - step (q.e) found + step (q.k) v
"""

from __future__ import annotations

import torch
from torch import Tensor

from ttr.backends.lowering import LinearForm, finish, linear_form, widen_state
from ttr.backends.native import step as native_step
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


def advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    form, memory = linear_form(problem, x), widen_state(problem, x)
    if native_step.serves(x, form):
        return finish(problem, x, *native_step.advance(form, memory, x.owns_state), form)
    y = None
    for j in range(form.pairs):
        y, memory = _learn(form, j, memory, x.owns_state)
    return finish(problem, x, y[:, None], memory, form)


def _learn(form: LinearForm, j: int, memory: Tensor, inplace: bool) -> tuple[Tensor, Tensor]:
    """The memory [B,H,F,V] after pair j, and its read-out [B,H,V] at the token's query."""
    query, key, value = form.query[:, 0], form.key[:, j], form.value[:, j]
    step = None if form.step is None else form.step[:, j, :, None]
    kept = None if form.log_decay is None else _per_feature(form.log_decay[:, j].exp())

    def decayed(row: Tensor) -> Tensor:
        return row if kept is None else row * kept

    written = value if step is None else step * value
    rows = [query if form.bonus is not None else decayed(query)]
    if form.read is not None:
        rows.append(decayed(form.read[:, j]) if form.gradient_at == "decayed" else form.read[:, j])
    y, *found = (torch.stack(rows, dim=2) @ memory).unbind(dim=2)
    erased = [row if step is None else step * row for row in found]
    if erased and form.erase is None:
        written, erased = written - erased[0], []
    if form.bonus is not None:
        y = y + (query * form.bonus * key).sum(-1, keepdim=True) * value
    else:
        y = y + (query * key).sum(-1, keepdim=True) * written
    after = _outer_sum(memory if kept is None else memory.mul_(kept[..., None]) if inplace else memory * kept[..., None], key, written, inplace)
    for row in erased:
        erase = form.erase[:, j]
        y = y if form.bonus is not None else y - (query * erase).sum(-1, keepdim=True) * row
        after = _outer_sum(after, -erase, row, inplace)
    return y, after


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
