"""One token of a linear memory through the compiled kernel (csrc/step.c), in place or into another tensor; no
gradients."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable

import torch
from torch import Tensor

from ttr.engines.native import library
from ttr.engines.sources import OPERANDS
from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.inputs import Inputs, needs_composite

TENSORS = struct.Struct(f"{len(OPERANDS) + 4}P")
"""The pointers of a call: the operands, memory, next memory, y, position."""

NO_MEMORY, OVERFLOWED = 2, 3
"""What the kernel returns instead of 0, as 1 where a number is not sound: with nothing changed; when all is
done, but not all outputs are finite."""

THREADED = 4 << 20
"""Bytes of states from which more threads than one are worth their start."""


class Token(ctypes.Structure):
    """``struct token`` of csrc/step.c."""

    _fields_ = [
        ("tensors", ctypes.c_void_p * (len(OPERANDS) + 4)),
        ("strides", ctypes.c_int64 * 3 * len(OPERANDS)),
        *((name, ctypes.c_int64) for name in ("batch", "heads", "features", "values")),
        *((name, ctypes.c_int64) for name in ("channels", "old", "reads_first", "checked", "threads")),
        ("scale", ctypes.c_double),
    ]


def usable(x: Inputs) -> bool:
    """Whether kernels can take the tensors of a call and give back all that it wants."""
    return (
        not x.wants_grad
        and x.q.is_cpu
        and type(x.q) in library.PLAIN
        and x.q.dtype in (torch.float32, torch.float64)
        and not needs_composite()
        and library.available()
    )


def advance(form: LinearRecurrence, inplace: bool) -> tuple[Tensor, Tensor]:
    """Read-out [B,1,H,V] and memory [B,H,F,V] after the pairs of the one token of ``form``; with ``inplace``
    the memory is the given one."""
    memory = library.contiguous(form.memory)
    after = memory if inplace else torch.empty_like(memory)
    y = memory.new_empty(*memory.shape[:2], memory.shape[-1])
    for pair in range(form.pairs):
        given = ((getattr(form, name), 0 if name == "query" else pair) for name in OPERANDS)
        operands = tuple(
            None if tensor is None else library.rows(tensor[:, place]) for tensor, place in given
        )
        rest = layout(operands, memory, form.old, form.scale, form.reads_first, checked=True)
        tensors = TENSORS.pack(
            *(0 if tensor is None else tensor.data_ptr() for tensor in (*operands, memory, after, y)), 0
        )
        if kernel(memory.dtype)(tensors, rest) == NO_MEMORY:
            raise MemoryError(
                "The native kernel for one token found no memory for its scratch. Free some, or set "
                "TTR_NATIVE=0."
            )
        memory = after
    if inplace:
        torch.autograd.graph.increment_version(memory)
    return y[:, None], after


def kernel(dtype: torch.dtype) -> Callable[[bytes, Token], int]:
    """(``TENSORS``, ``layout``) -> 0; else 1 if a number is not sound, with nothing changed, or one of the
    two above."""
    function = library.function("step", dtype)
    function.argtypes = [ctypes.c_char_p, ctypes.POINTER(Token)]
    return function


def layout(
    operands: tuple[Tensor | None, ...],
    memory: Tensor,
    old: bool,
    scale: float = 1.0,
    reads_first: bool = False,
    checked: bool = False,
) -> Token:
    """All of a call but its tensors: ``operands`` [B,h,.] with a contiguous last axis, neighbouring heads of
    the memory sharing one; the kernel looks at the numbers unless they are ``checked``."""
    batch, heads, features, values = memory.shape
    threads = torch.get_num_threads() if memory.nbytes > THREADED else 1
    token = Token(
        batch=batch,
        heads=heads,
        features=features,
        values=values,
        old=old,
        reads_first=reads_first,
        checked=checked,
        channels=operands[6] is not None and operands[6].ndim == 3,
        threads=threads,
        scale=scale,
    )
    for stride, tensor in zip(token.strides, operands):
        stride[:] = (0, 0, 1) if tensor is None else (*tensor.stride()[:2], heads // tensor.shape[1])
    return token
