"""One token of a linear memory through the compiled kernel (csrc/step.c), in place or into another tensor; no gradients."""

from __future__ import annotations

import ctypes
import dataclasses
import struct
from collections.abc import Callable, Mapping
from operator import itemgetter

import torch
from torch import Tensor

from ttr.backends.lowering import LinearForm, linear_form
from ttr.backends.native import library
from ttr.inputs import Inputs, in_functorch
from ttr.problem import Problem
from ttr.state import State

BoundStep = Callable[[Tensor, Tensor, Tensor, State, Mapping[str, Tensor]], tuple[Tensor, State] | None]
"""(q, k, v, state, controls) of one token -> (y [B,H,V], state), or None, with nothing changed, where the call is not like the bound one."""

OPERANDS = ("query", "key", "value", "read", "erase", "step", "log_decay")
TENSORS = struct.Struct(f"{len(OPERANDS) + 5}P")
"""The pointers of a call: the operands, memory, bonus, next memory, y, position."""

THREADED = 4 << 20
"""Bytes of states from which more threads than one are worth their start."""


class Token(ctypes.Structure):
    """``struct token`` of csrc/step.c."""

    _fields_ = [("tensors", ctypes.c_void_p * (len(OPERANDS) + 5)), ("strides", ctypes.c_int64 * 3 * len(OPERANDS)),
                *((name, ctypes.c_int64) for name in ("batch", "heads", "features", "values", "channels", "old", "reads_first", "checked", "threads")),
                ("scale", ctypes.c_double)]


def serves(x: Inputs, form: LinearForm) -> bool:
    """Whether the kernel can take this token."""
    return (form.pairs == 1 and not x.wants_grad and x.q.is_cpu and x.q.dtype in (torch.float32, torch.float64) and not in_functorch()
            and not torch.compiler.is_compiling() and library.available())


def advance(form: LinearForm, memory: Tensor, inplace: bool) -> tuple[Tensor, Tensor]:
    """Read-out [B,1,H,V] and memory [B,H,F,V] after the one token of ``form``; with ``inplace`` the memory is the given tensor."""
    memory = memory.contiguous()
    after = memory if inplace else torch.empty_like(memory)
    operands = [None if (tensor := getattr(form, name)) is None else _rows(tensor[:, 0]) for name in OPERANDS]
    y = torch.empty_like(operands[2], memory_format=torch.contiguous_format)
    bonus = None if form.bonus is None else form.bonus.contiguous()
    layout = _layout(operands, memory, form.gradient_at == "old", form.bonus is not None, checked=True)
    tensors = TENSORS.pack(*(0 if t is None else t.data_ptr() for t in (*operands, memory, bonus, after, y)), 0)
    _check(_kernel(memory.dtype)(tensors, ctypes.byref(layout)))
    return y[:, None], after


def bind(problem: Problem, x: Inputs) -> BoundStep | None:
    """A call for tokens like that of ``x``, without the way through the checks and the lowering; None where the kernel cannot take the
    tensors as they come.

    The kernel looks at the numbers itself, before it writes: finite, steps >= 0, log decays <= 0.
    """
    sources = _sources(problem, x)
    if sources is None:
        return None
    inplace = x.owns_state
    names, operands, constant = sources
    dtype, batch, heads, values = x.q.dtype, x.q.shape[0], x.heads, x.v.shape[-1]
    memory = x.state["memory"]
    tensors = (x.q[:, 0], x.k[:, 0], x.v[:, 0], *(x.controls[name][:, 0] for name in names))
    shapes = (*(t.shape for t in tensors), memory.shape)
    given = (*(t.contiguous() for t in tensors), None, constant)
    layout = ctypes.byref(_layout(operands(given), memory, problem.solver.gradient_at == "old", False, False,
                                  problem.function.plain_scale(x.q.shape[-1])))
    kernel, fixed, count, output = _kernel(dtype), (0, 0 if constant is None else constant.data_ptr()), len(names), (batch, heads, values)

    def run(q: Tensor, k: Tensor, v: Tensor, state: State, controls: Mapping[str, Tensor]) -> tuple[Tensor, State] | None:
        if type(state) is not State or "memory" not in state.tensors or len(state.tensors) != 1 or len(controls) != count:
            return None
        memory, position = state.tensors["memory"], state.position
        tensors = (q, k, v, *map(controls.get, names), memory)
        for tensor, shape in zip(tensors, shapes):
            if type(tensor) is not Tensor or tensor.dtype is not dtype or tensor.shape != shape or not (tensor.is_cpu and tensor.is_contiguous()):
                return None
        if position.dtype is not torch.int64 or position.numel() != batch or not (position.is_cpu and position.is_contiguous()):
            return None
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors) or in_functorch() or torch.compiler.is_compiling():
            return None
        y = torch.empty(output, dtype=dtype)
        *pointers, here = [tensor.data_ptr() for tensor in tensors]
        pointers += fixed
        if inplace:
            failed = kernel(TENSORS.pack(*operands(pointers), here, 0, here, y.data_ptr(), position.data_ptr()), layout)
            return None if failed else (y, state)
        after = torch.empty_like(memory)
        failed = kernel(TENSORS.pack(*operands(pointers), here, 0, after.data_ptr(), y.data_ptr(), 0), layout)
        return None if failed else (y, State({"memory": after}, position + 1, state.capacity))

    return run


def _sources(problem: Problem, x: Inputs) -> tuple[tuple[str, ...], itemgetter, Tensor | None] | None:
    """Where the kernel finds its operands: the names of the controls, a function that picks the ``OPERANDS`` from (q, k, v, *controls,
    none, constant), and the constant log decay, if that depends on nothing.

    An operand that the lowering hands through untouched is the caller's tensor, which a copy of the call shows; others need it at every
    token, and then there is nothing to bind.
    """
    plain = problem.memory == "matrix" and not problem.function.normalized and problem.function.plain_scale(x.q.shape[-1]) is not None
    if not plain or x.phase is not None or x.rates is not None or x.params:
        return None
    names = tuple(x.controls)
    copies = {name: control.clone() for name, control in x.controls.items()}
    probe = dataclasses.replace(x, q=x.grouped(x.q).clone(), k=x.grouped(x.k).clone(), v=x.grouped(x.v).clone(), controls=copies)
    form = linear_form(problem, probe)
    if not serves(x, form) or form.carried or form.bonus is not None:
        return None
    found = {tensor.data_ptr(): i for i, tensor in enumerate((probe.q, probe.k, probe.v, *copies.values()))}
    none, constant = len(found), None
    places = [0, *(none if (tensor := getattr(form, name)) is None else found.get(tensor.data_ptr()) for name in OPERANDS[1:-1])]
    if form.log_decay is None:
        places.append(none)
    elif problem.weights.retention_control is not None:
        places.append(3 + names.index(problem.weights.retention_control))
    elif not problem.weights.controls():
        constant = form.log_decay[:, 0].contiguous()
        places.append(none + 1)
    else:
        return None
    return None if None in places else (names, itemgetter(*places), constant)


def _layout(operands: tuple[Tensor | None, ...], memory: Tensor, old: bool, reads_first: bool, checked: bool, scale: float = 1.0) -> Token:
    """All of a call but its tensors; ``operands`` [B,h,.] with a contiguous last axis, the heads h shared by the memory's."""
    batch, heads, features, values = memory.shape
    threads = torch.get_num_threads() if memory.nbytes > THREADED else 1
    token = Token(batch=batch, heads=heads, features=features, values=values, old=old, reads_first=reads_first, checked=checked,
                  channels=operands[6] is not None and operands[6].ndim == 3, threads=threads, scale=scale)
    for stride, tensor in zip(token.strides, operands):
        stride[:] = (0, 0, 1) if tensor is None else (*tensor.stride()[:2], heads // tensor.shape[1])
    return token


def _rows(tensor: Tensor) -> Tensor:
    """[B,h] as it is, [B,h,d] with a contiguous last axis."""
    return tensor if tensor.ndim == 2 or tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _kernel(dtype: torch.dtype) -> Callable[[bytes, object], int]:
    function = library.function("step", dtype)
    function.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    return function


def _check(code: int) -> None:
    if code:
        raise MemoryError("The native kernel for one token found no memory for its scratch. Free some, or set TTR_NATIVE=0.")
