"""One token of a plain linear memory, bound: for hot loops, with nothing between the caller's tensors and the
update but a look at them."""

from __future__ import annotations

import ctypes
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor

from ttr.engines.native import step as native
from ttr.engines.torch.steps import matrix
from ttr.inputs import Inputs, needs_composite, repeat_heads
from ttr.problem import Problem
from ttr.state import State
from ttr.torch_internals import is_transformed
from ttr.values import counts, sound, suspicious, vouch

BoundStep = Callable[
    [Tensor, Tensor, Tensor, State | None, Mapping[str, Tensor]], "tuple[Tensor, State] | None"
]
"""(q, k, v, state, controls) of one token -> (y [B,H,V], state), or None, with nothing changed, where the
call is not like the bound one."""

Update = Callable[[tuple[Tensor, ...]], "tuple[Tensor, Tensor] | None"]
"""(q, k, v, *controls, memory, position), as they were bound -> (y, memory after), or None with nothing
changed."""


class Sources(NamedTuple):
    """Where an update finds its operands, ``native.OPERANDS``: at ``places`` of (q, k, v, *controls by
    ``names``, None, constant), the constant being the log decay [B,H] or [B,H,F] of weights that no input
    moves; ``scale`` and ``old`` as in ``LinearRecurrence``."""

    names: tuple[str, ...]
    places: tuple[int, ...]
    constant: Tensor | None
    scale: float
    old: bool


def bind(problem: Problem, x: Inputs, compiled: bool) -> BoundStep | None:
    """A call for tokens like that of ``x``, in place if it owns its state, by the ``compiled`` kernel or by
    torch; None where the update needs more than the caller's tensors."""
    sources = _sources(problem, x)
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
        q: Tensor, k: Tensor, v: Tensor, state: State | None, controls: Mapping[str, Tensor]
    ) -> tuple[Tensor, State] | None:
        if (
            type(state) is not State
            or type(state.tensors) is not dict
            or len(controls) != len(names)
            or len(state.tensors) != 1
        ):
            return None
        memory, position = state.tensors.get("memory"), state.position
        tensors = (q, k, v, *map(controls.get, names), memory, position)
        if not _alike(tensors, shapes, dtypes):
            return None
        # which cannot trace whether torch lets nobody write to them
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


def _alike(
    tensors: tuple[Tensor, ...], shapes: tuple[torch.Size, ...], dtypes: tuple[torch.dtype, ...]
) -> bool:
    """Whether these are plain contiguous tensors on the CPU of such shapes and types, without gradients."""
    wants_grad = torch.is_grad_enabled()
    try:
        for tensor, shape, dtype in zip(tensors, shapes, dtypes):
            if (
                type(tensor) is not Tensor
                or tensor.dtype is not dtype
                or tensor.shape != shape
                or not (tensor.is_cpu and tensor.is_contiguous())
            ):
                return False
            if wants_grad and tensor.requires_grad:
                return False
    except RuntimeError:  # nested tensors have no shape, sparse ones no strides
        return False
    return not is_transformed()


def _native(problem: Problem, x: Inputs, sources: Sources) -> Update:
    """The update by the compiled kernel, which looks at the numbers itself and refuses unsound ones before it
    writes."""
    kernel, inplace, pick, pack = (
        native.kernel(x.q.dtype),
        x.owns_state,
        itemgetter(*sources.places),
        native.TENSORS.pack,
    )
    constant = sources.constant  # kept here, since the kernel knows its address alone
    given = [t[:, 0].contiguous() for t in (x.q, x.k, x.v, *map(x.controls.get, sources.names))]
    operands = pick((*given, None, sources.constant))
    layout = ctypes.byref(native.layout(operands, x.state["memory"], sources.old, sources.scale))
    output = torch.empty(x.q.shape[0], x.heads, x.v.shape[-1], dtype=x.q.dtype)

    def update(tensors: tuple[Tensor, ...]) -> tuple[Tensor, Tensor] | None:
        # The kernel would read what lies in memory; torch.compile, which cannot ask, needs no kernel.
        if any(map(Tensor.is_neg, tensors)) or not sound(tensors[-2]):
            return None
        *pointers, memory, position = map(Tensor.data_ptr, tensors)
        y = torch.empty_like(output)  # with a shape and a type to parse it takes twice as long
        operands = pick((*pointers, 0, 0 if constant is None else constant.data_ptr()))
        after = tensors[-2] if inplace else torch.empty_like(tensors[-2])
        failed = kernel(
            pack(*operands, memory, memory if inplace else after.data_ptr(), y.data_ptr(), position),
            layout,
        )
        if failed and failed != native.OVERFLOWED:
            return None
        if inplace:
            torch.autograd.graph.increment_version(tensors[-2:])  # graphs that hold them must see the change
        if not failed:
            vouch(after)
        return y, after

    return update


def _eager(problem: Problem, x: Inputs, sources: Sources) -> Update:
    """The update in torch's operations, which looks at the numbers as the kernel does."""
    old, inplace, pair_of, look = (
        sources.old,
        x.owns_state,
        _pairs(x, sources),
        matrix.look_of(x.state["memory"]),
    )
    # to multiply with a number of Python takes twice as long
    scale = torch.tensor(sources.scale, dtype=x.q.dtype)

    def update(tensors: tuple[Tensor, ...]) -> tuple[Tensor, Tensor] | None:
        *given, memory, position = tensors
        query, pair = pair_of(given)
        if torch.is_autocast_enabled("cpu") or not (
            _sound(given, pair) and sound(memory) and counts(position)
        ):
            return None  # autocast would narrow the products
        after = matrix.changed(pair, matrix.change_by(pair, memory, old, look), memory, inplace)
        if inplace:
            position.add_(1)
        y = look(after, query * scale)
        if not suspicious(y):
            vouch(after)
        return y, after

    return update


def _traced(problem: Problem, x: Inputs, sources: Sources) -> Update:
    """The update for torch.compile to trace, which sees no numbers. Short ways matter here too: all that is
    looked at while it is traced is looked at again before every call of what was compiled."""
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
        change = matrix.change_by(pair, memory, old, matrix.look_up)
        y, after = (
            matrix.foretold(query * scale, pair, change, memory),
            matrix.changed(pair, change, memory, inplace),
        )
        if inplace:
            position.add_(1)
        return y, after

    return update


def _pairs(x: Inputs, sources: Sources) -> Callable[[Sequence[Tensor]], tuple[Tensor, matrix.Pair]]:
    """(q, k, v, *controls) -> the query, without its factor, and the pair, with as many heads as the memory
    has."""
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


def _sound(given: Sequence[Tensor], pair: matrix.Pair) -> bool:
    """Whether what a token brings is finite, steps >= 0 and log decays <= 0, -inf allowed, as sums and
    extremes show it: NaN passes through both. A sum of finite numbers that overflows costs a closer look, no
    more."""
    step, log_decay = pair.step, pair.log_decay
    if step is not None:
        low, high = torch.aminmax(step)
        if not (low.item() >= 0 and high.item() < math.inf):
            return False
    if log_decay is not None and not log_decay.max().item() <= 0:
        return False
    return all(math.isfinite(x.sum().item()) for x in given if x is not step and x is not log_decay)


def _sources(problem: Problem, x: Inputs) -> Sources | None:
    """What the lowering hands through untouched is the caller's tensor, which a copy of the call shows. Where
    it makes anything new at every token, there is nothing to bind."""
    if problem.memory != "matrix" or x.rates is not None or x.params or x.wants_grad:
        return None
    if not x.q.is_cpu or x.q.numel() == 0 or x.q.dtype is not x.out_dtype or needs_composite():
        return None
    names = tuple(x.controls)
    copies = {name: control.clone() for name, control in x.controls.items()}
    probe = dataclasses.replace(
        x, q=x.grouped(x.q).clone(), k=x.grouped(x.k).clone(), v=x.grouped(x.v).clone(), controls=copies
    )
    start = problem.begin(probe)
    form = problem.lower(probe, start)
    if form.pairs > 1 or form.carried or form.undo or form.log_decay is not start.log_decay:
        return None
    none = 3 + len(names)
    found = {tensor.data_ptr(): i for i, tensor in enumerate((probe.q, probe.k, probe.v, *copies.values()))}
    operands = [getattr(form, name) for name in native.OPERANDS[:-1]]
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
