"""Specialised decode steps of a plain linear memory, for hot loops: the caller's tensors are validated and
passed to the update directly."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter

import torch
from torch import Tensor

from ttr.engines.native import step as native
from ttr.engines.sources import Sources, alike, in_range, sources_of
from ttr.engines.torch.steps import matrix
from ttr.inputs import Inputs, repeat_heads
from ttr.problem import Problem
from ttr.state import State
from ttr.values import counts, sound, suspicious, vouch

BoundStep = Callable[
    [Tensor, Tensor, Tensor, State | None, Mapping[str, Tensor], Mapping[str, Tensor]],
    "tuple[Tensor, State] | None",
]
"""(q, k, v, state, controls, params) of one token -> (y [B,H,V], state), or None, with nothing changed, where
the call differs from the bound one."""

Update = Callable[[tuple[Tensor, ...]], "tuple[Tensor, Tensor] | None"]
"""(q, k, v, *controls, memory, position), like those bound -> (y, the memory after the token), or None with
nothing changed."""


def bind(problem: Problem, x: Inputs, compiled: bool) -> BoundStep | None:
    """A call for tokens of the sizes of ``x``, in place if ``x`` owns its state, by the ``compiled`` kernel
    or by torch; None where the operands of the update are not all among the caller's tensors."""
    sources = sources_of(problem, x)
    if sources is None:
        return None
    names, dtype = sources.names, x.q.dtype
    memory = x.state["memory"]
    shapes = (
        *(t.shape[:1] + t.shape[2:] for t in (x.q, x.k, x.v, *map(x.controls.get, names))),
        memory.shape,
        x.state.position.shape,
    )
    dtypes = (*[dtype] * (len(shapes) - 1), torch.int64)
    updates = ((_native if compiled else _eager)(problem, x, sources), _traced(problem, x, sources))
    inplace = x.owns_state

    def run(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: State | None,
        controls: Mapping[str, Tensor],
        params: Mapping[str, Tensor],
    ) -> tuple[Tensor, State] | None:
        if (
            params
            or type(state) is not State
            or type(state.tensors) is not dict
            or len(controls) != len(names)
            or len(state.tensors) != 1
        ):
            return None
        memory, position = state.tensors.get("memory"), state.position
        tensors = (q, k, v, *map(controls.get, names), memory, position)
        if not alike(tensors, shapes, dtypes):
            return None
        # torch forbids writing to inference tensors outside inference mode; torch.compile cannot trace the
        # check
        compiling = torch.compiler.is_compiling()
        if (
            inplace
            and not compiling
            and (memory.is_inference() or position.is_inference())
            and not torch.is_inference_mode_enabled()
        ):
            return None
        done = updates[compiling](tensors)
        if done is None:
            return None
        return (
            (done[0], state)
            if inplace
            else (done[0], State({"memory": done[1]}, position + 1, state.capacity))
        )

    return run


def _native(problem: Problem, x: Inputs, sources: Sources) -> Update:
    """The update by the compiled kernel, which validates the numbers itself before it writes."""
    kernel, inplace, pick, pack = (
        native.kernel(x.q.dtype),
        x.owns_state,
        itemgetter(*sources.places),
        native.TENSORS.pack,
    )
    constant = sources.constant  # kept alive here, since the kernel gets only its address
    given = [t[:, 0].contiguous() for t in (x.q, x.k, x.v, *map(x.controls.get, sources.names))]
    operands = pick((*given, None, sources.constant))
    layout = ctypes.byref(native.layout(operands, x.state["memory"], sources.old, sources.scale))
    output = torch.empty(x.q.shape[0], x.heads, x.v.shape[-1], dtype=x.q.dtype)

    def update(tensors: tuple[Tensor, ...]) -> tuple[Tensor, Tensor] | None:
        # The kernel reads raw memory and ignores a lazy negation bit, which torch.compile cannot trace.
        if any(map(Tensor.is_neg, tensors)) or not sound(tensors[-2]):
            return None
        *pointers, memory, position = map(Tensor.data_ptr, tensors)
        y = torch.empty_like(output)  # twice as fast as torch.empty, which parses a shape and a dtype
        operands = pick((*pointers, 0, 0 if constant is None else constant.data_ptr()))
        after = tensors[-2] if inplace else torch.empty_like(tensors[-2])
        failed = kernel(
            pack(*operands, memory, memory if inplace else after.data_ptr(), y.data_ptr(), position),
            layout,
        )
        if failed and failed != native.OVERFLOWED:
            return None
        if inplace:
            torch.autograd.graph.increment_version(tensors[-2:])  # tells graphs that saved them of the change
        if not failed:
            vouch(after)
        return y, after

    return update


def _eager(problem: Problem, x: Inputs, sources: Sources) -> Update:
    """The update in torch's operations, with the same validation as the kernel."""
    old, inplace, pair_of, read = (
        sources.old,
        x.owns_state,
        _pairs(x, sources),
        matrix.fastest_read(x.state["memory"]),
    )
    # twice as fast as multiplying by a Python number
    scale = torch.tensor(sources.scale, dtype=x.q.dtype)

    def update(tensors: tuple[Tensor, ...]) -> tuple[Tensor, Tensor] | None:
        *given, memory, position = tensors
        query, pair = pair_of(given)
        if torch.is_autocast_enabled("cpu") or not (
            in_range(given, pair.step, pair.log_decay) and sound(memory) and counts(position)
        ):
            return None  # autocast would narrow the products
        after = matrix.changed(pair, matrix.change_by(pair, memory, old, read), memory, inplace)
        if inplace:
            position.add_(1)
        y = read(after, query * scale)
        if not suspicious(y):
            vouch(after)
        return y, after

    return update


def _traced(problem: Problem, x: Inputs, sources: Sources) -> Update:
    """The update for torch.compile to trace, without validation. It stays short: every property that is read
    while tracing becomes a guard, which is checked before every call of the compiled code."""
    old, inplace, pair_of, scale = (
        sources.old,
        x.owns_state,
        _pairs(x, sources),
        sources.scale,
    )

    def update(tensors: tuple[Tensor, ...]) -> tuple[Tensor, Tensor] | None:
        *given, memory, position = tensors
        if torch.is_autocast_enabled("cpu"):
            return None
        query, pair = pair_of(given)
        change = matrix.change_by(pair, memory, old, matrix.read_memory)
        y, after = (
            matrix.read_after(query * scale, pair, change, memory),
            matrix.changed(pair, change, memory, inplace),
        )
        if inplace:
            position.add_(1)
        return y, after

    return update


def _pairs(x: Inputs, sources: Sources) -> Callable[[Sequence[Tensor]], tuple[Tensor, matrix.Pair]]:
    """(q, k, v, *controls) -> the query, without its scale, and the pair, both with as many heads as the
    memory."""
    heads, shared = x.heads, any(tensor.shape[-2] != x.heads for tensor in (x.q, x.k, x.v))
    places, constant = sources.places, sources.constant

    def pair_of(given: Sequence[Tensor]) -> tuple[Tensor, matrix.Pair]:
        found = (*given, None, constant)
        query, key, value, read, erase, step, log_decay = [found[place] for place in places]
        if shared:
            query, key, value, read, erase = (
                row if row is None else repeat_heads(row, heads) for row in (query, key, value, read, erase)
            )
        return query, matrix.Pair(key, value, read, erase, step, log_decay)

    return pair_of
