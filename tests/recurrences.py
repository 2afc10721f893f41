"""The linear recurrence by the equations in its docstring, token by token: the reference of all kernels."""

from __future__ import annotations

import torch

from ttr.forms.linear_recurrence import LinearRecurrence

NAMES = ("query", "key", "value", "read", "erase", "step", "log_decay", "memory")


def literally(r: LinearRecurrence) -> tuple[torch.Tensor, torch.Tensor]:
    """The recurrence by the equations in its docstring."""
    memory, outputs = r.memory, [r.query.new_zeros(*r.query.shape[:1], 0, *r.memory.shape[1::2])]
    for t in range(r.query.shape[1]):
        before = memory
        for j in range(t * r.pairs, (t + 1) * r.pairs):
            old, step = memory, 1 if r.step is None else r.step[:, j, :, None, None]
            if r.log_decay is not None:
                kept = r.log_decay[:, j].exp()
                memory = memory * (kept[..., None] if kept.ndim == 3 else kept[..., None, None])
            found = 0 if r.read is None else r.read[:, j, :, None] @ (old if r.old else memory)
            eraser = r.key if r.erase is None else r.erase
            memory = memory + step * (
                r.key[:, j, ..., None] * r.value[:, j, :, None] - eraser[:, j, ..., None] * found
            )
        outputs.append(
            (r.scale * r.query[:, t, :, None] @ (before if r.reads_first else memory)).transpose(1, 2)
        )
    return torch.cat(outputs, dim=1), memory


def leaves(r: LinearRecurrence) -> tuple[LinearRecurrence, dict[str, torch.Tensor]]:
    """The recurrence on tensors that require gradients, and these by name."""
    named = {
        name: getattr(r, name).detach().requires_grad_() for name in NAMES if getattr(r, name) is not None
    }
    shared = r.read is r.key
    r = r._replace(**named)
    if shared:
        del named["read"]
        r = r._replace(read=r.key)
    return r, named
