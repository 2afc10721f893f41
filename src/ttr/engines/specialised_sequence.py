"""Specialised calls for sequences of a plain linear memory: the caller's tensors are validated and
passed to the compiled kernel directly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from operator import itemgetter

import torch
from torch import Tensor

from ttr.decay import RESET
from ttr.engines import linear_operator
from ttr.engines.native import library, step
from ttr.engines.sources import BoundSequence, alike, in_range, sources_of
from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State
from ttr.torch_internals import watched
from ttr.values import counts, suspicious, wanted

_in_range = torch.no_grad()(in_range)


@torch.no_grad()
def bind(problem: Problem, x: Inputs, name: str, chunk: int) -> BoundSequence | None:
    """A call for sequences of the sizes of ``x``, by the kernel of that name; None where the operands
    of the recurrence are not all among the caller's tensors."""
    heads = {tensor.shape[-2] for tensor in (x.q, x.k, x.v)}
    if not step.usable(dataclasses.replace(x, wants_grad=False)) or x.length == 0 or heads != {x.heads}:
        return None
    sources = sources_of(problem, x.tokens(0, 1, x.state))
    if sources is None:
        return None
    operator = linear_operator.KERNELS[name]
    names, length, dtype = sources.names, x.length, x.q.dtype
    given = (x.q, x.k, x.v, *map(x.controls.get, names))
    shapes = (*(t.shape for t in given), x.state["memory"].shape, x.state.position.shape)
    dtypes = (*[dtype] * (len(shapes) - 1), torch.int64)
    constant = None if sources.constant is None else _over_time(sources.constant, length)
    pick = itemgetter(*sources.places)
    start, position = torch.zeros_like(x.state["memory"]), torch.zeros_like(x.state.position)

    def recurrence(operands: Sequence[Tensor | None], memory: Tensor) -> LinearRecurrence:
        *others, log_decay = operands
        if log_decay is not None and not operator.judges:
            log_decay = log_decay.clamp(min=RESET)
        return LinearRecurrence(*others, log_decay, memory, old=sources.old, scale=sources.scale)

    sample = pick((*(tensor.contiguous() for tensor in given), None, constant))
    kernel = operator.prepared(recurrence(sample, start), chunk)

    def run(
        q: Tensor, k: Tensor, v: Tensor, state: State | None, controls: Mapping[str, Tensor]
    ) -> tuple[Tensor, State] | None:
        if len(controls) != len(names) or not library.available():
            return None
        if state is None:
            memory, seen = start, position
        elif _is_plain(state):
            memory, seen = state.tensors.get("memory"), state.position
        else:
            return None
        tensors = (q, k, v, *map(controls.get, names))
        every = (*tensors, memory, seen)
        sound = alike(every, shapes, dtypes, gradients=True) and not watched(every)
        if not sound or any(map(Tensor.is_neg, every)):
            return None
        learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in every)
        if learns and any(map(Tensor.is_inference, every)):
            return None
        operands = pick((*tensors, None, constant))
        if wanted(q.device):
            judged = ((), operands[-2], None) if operator.judges else ((*tensors, memory), *operands[-2:])
            if not (_in_range(*judged) and counts(seen)):
                return None
        form = recurrence(operands, memory)
        if learns:
            y, after = linear_operator.run(name, form, chunk, True)
        else:
            y, after = kernel(form)
        if suspicious(y):  # the general path checks every number and says what is wrong
            return None
        return y, State({"memory": after}, seen + length, None if state is None else state.capacity)

    return run


def _is_plain(state: State) -> bool:
    """Whether a state holds one tensor and has no methods of its own."""
    return type(state) is State and type(state.tensors) is dict and len(state.tensors) == 1


def _over_time(x: Tensor, length: int) -> Tensor:
    """[B,...] for every token, as [B,L,...]."""
    return x[:, None].expand(-1, length, *x.shape[1:])
