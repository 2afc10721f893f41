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
"""The pointers of a call: the operands, the memory, the memory after the token, y, the position."""

NO_MEMORY, OVERFLOWED = 2, 3
"""Return values of the kernel beside 0 and 1 (an invalid number, nothing changed): no scratch memory, nothing
changed; and done, but not every output is finite."""

THREADED = 4 << 20
"""Bytes of states above which starting more than one thread pays."""


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
    """Whether the kernels can run a call: plain tensors on the CPU, without gradients."""
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
    the given memory is overwritten."""
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
                "The native kernel for one token could not allocate its scratch memory. Free some, or set "
                "TTR_NATIVE=0."
            )
        memory = after
    if inplace:
        torch.autograd.graph.increment_version(memory)
    return y[:, None], after


def kernel(dtype: torch.dtype) -> Callable[[bytes, Token], int]:
    """(``TENSORS``, ``layout``) -> 0; 1 if a number is invalid, with nothing changed; ``NO_MEMORY`` or
    ``OVERFLOWED``."""
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
    """All arguments of a call except its tensors. ``operands`` [B,h,.] have a contiguous last axis;
    neighbouring heads of the memory share a head of theirs where h is smaller. The kernel validates the
    numbers unless they are already ``checked``."""
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
