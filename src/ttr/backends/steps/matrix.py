"""One token of a memory that is a matrix S."""

from __future__ import annotations

from torch import Tensor

from ttr.backends.lowering import finish, linear_form, widen_state
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


def advance(problem: Problem, x: Inputs) -> tuple[Tensor, State]:
    form, memory = linear_form(problem, x), widen_state(problem, x)
    before = memory
    for j in range(form.pairs):
        kept = decay(memory, form.log_decay[:, j]) if form.log_decay is not None else memory
        written, step = form.value[:, j], 1 if form.step is None else form.step[:, j, :, None]
        if form.read is not None:
            source = kept if form.gradient_at == "decayed" else memory
            found = (form.read[:, j, :, None] @ source)[..., 0, :]
            if form.erase is None:
                written = written - found
            else:
                kept = kept - form.erase[:, j, :, :, None] * (step * found)[:, :, None]
        memory = kept + form.key[:, j, :, :, None] * (step * written)[:, :, None]
    seen = memory if form.bonus is None else before + (form.bonus * form.key[:, 0])[..., None] * form.value[:, 0, :, None]
    y = (form.query[:, 0, :, None] @ seen).transpose(1, 2)
    return finish(problem, x, y, memory, form)


def decay(memory: Tensor, log_decay: Tensor | None) -> Tensor:
    """Shrink [B,H,F,V] by exp of [B,H] or [B,H,F]."""
    if log_decay is None:
        return memory
    kept = log_decay.exp()
    return memory * (kept[..., None] if kept.ndim == 3 else kept[..., None, None])
