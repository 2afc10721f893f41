"""Which of the caller's tensors are the operands of a linear recurrence, for calls that pass them to a kernel
directly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ttr.forms import LinearRecurrence
from ttr.inputs import Inputs, needs_composite
from ttr.problem import Problem
from ttr.state import State
from ttr.torch_internals import PLAIN, is_transformed

OPERANDS = ("query", "key", "value", "read", "erase", "step", "log_decay")


BoundSequence = Callable[
    [Tensor, Tensor, Tensor, State | None, Mapping[str, Tensor]], "tuple[Tensor, State] | None"
]
"""(q, k, v, state, controls) -> (y [B,T,H,V], state), or None where the call differs from the bound one."""


class Sources(NamedTuple):
    """Where a call finds the ``OPERANDS``: at ``places`` of (q, k, v, *controls by ``names``, None,
    constant). The constant is the log decay [B,H] or [B,H,F] of weights without controls; ``scale`` and
    ``old`` are those of ``LinearRecurrence``."""

    names: tuple[str, ...]
    places: tuple[int, ...]
    constant: Tensor | None
    scale: float
    old: bool


def sources_of(problem: Problem, x: Inputs) -> Sources | None:
    """The sources of a call's operands, found by lowering a copy of the call: an operand at the address of an
    input is that input. None where the lowering computes an operand anew at every token."""
    if problem.form is not LinearRecurrence or x.rates is not None or x.params:
        return None
    if not x.q.is_cpu or x.q.numel() == 0 or x.q.dtype is not x.out_dtype or needs_composite():
        return None
    names = tuple(x.controls)
    copies = {name: control.clone() for name, control in x.controls.items()}
    copy = dataclasses.replace(
        x, q=x.grouped(x.q).clone(), k=x.grouped(x.k).clone(), v=x.grouped(x.v).clone(), controls=copies
    )
    start = problem.begin(copy)
    form = problem.lower(copy, start)
    if form.pairs > 1 or form.carried or form.undo or form.reads_first:
        return None
    if form.log_decay is not start.log_decay:
        return None
    none = 3 + len(names)
    found = {tensor.data_ptr(): i for i, tensor in enumerate((copy.q, copy.k, copy.v, *copies.values()))}
    operands = [getattr(form, name) for name in OPERANDS[:-1]]
    places = [none if tensor is None else found.get(tensor.data_ptr()) for tensor in operands]
    constant = None
    if form.log_decay is None:
        places.append(none)
    elif problem.weights.controls():
        log = problem.weights.log_retention(copies, x.axis_params("weights"), x.heads, x.q)
        places.append(found.get(log.data_ptr()))
    else:
        constant = form.log_decay[:, 0].contiguous()
        places.append(none + 1)
    if None in places:
        return None
    return Sources(names, tuple(places), constant, form.scale, form.old)


def alike(
    tensors: tuple[Tensor, ...],
    shapes: tuple[torch.Size, ...],
    dtypes: tuple[torch.dtype, ...],
    contiguous: bool = True,
    gradients: bool = False,
) -> bool:
    """Whether these are plain CPU tensors of the given shapes and dtypes, without gradients unless those are
    allowed, and ``contiguous`` if asked."""
    wants_grad = torch.is_grad_enabled() and not gradients
    try:
        for tensor, shape, dtype in zip(tensors, shapes, dtypes):
            if (
                type(tensor) not in PLAIN
                or tensor.dtype is not dtype
                or tensor.shape != shape
                or not tensor.is_cpu
                or tensor.layout is not torch.strided
                or contiguous
                and not tensor.is_contiguous()
            ):
                return False
            if wants_grad and tensor.requires_grad:
                return False
    except RuntimeError:  # nested tensors have no shape, sparse ones no strides
        return False
    return not is_transformed()


def in_range(given: Sequence[Tensor], step: Tensor | None, log_decay: Tensor | None) -> bool:
    """Whether the inputs of a call are finite, steps >= 0 and log decays <= 0 (-inf allowed), judged by sums
    and extremes, which propagate NaN. Where a sum of finite numbers overflows, the answer is False and the
    general path, which checks every number, takes the call."""
    if step is not None:
        low, high = torch.aminmax(step)
        if not (low.item() >= 0 and high.item() < math.inf):
            return False
    if log_decay is not None and not log_decay.max().item() <= 0:
        return False
    return all(math.isfinite(x.sum().item()) for x in given if x is not step and x is not log_decay)
