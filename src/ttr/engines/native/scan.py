"""The compiled selective scan: how csrc/scan.c is called."""

from __future__ import annotations

import ctypes
import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.engines import linear_operator, specialised_sequence
from ttr.engines.native import library
from ttr.engines.native.engine import CompiledStep
from ttr.engines.native.recurrence import (
    BLOCK,
    INPUTS,
    NativeKernel,
    _Arguments,
    _arguments,
    _fill,
    _on_pairs,
    _on_tokens,
    _padded,
    _Tensor,
)
from ttr.engines.sources import BoundSequence
from ttr.engines.torch.channel_scan import ChannelScan
from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.inputs import Inputs
from ttr.problem import Problem, Weights
from ttr.torch_internals import watched

STATES, MOST_HEADS = 1024, 256
"""Entries of the state of a task's heads for each value channel, which stay in the first-level cache, and the
most heads of a task."""


class _ScanArguments(_Arguments):
    """``scan`` of ``csrc/scan.h``."""

    _fields_ = (
        ("rates", _Tensor),
        ("grad_rates", _Tensor),
        ("together", ctypes.c_int64),
        ("shared", ctypes.c_int64),
    )


class ScanKernel(NativeKernel):
    """Additive recurrences token by token, elementwise in the state; for few value channels per head."""

    names: ClassVar[tuple[str, str]] = ("scan_forward", "scan_backward")
    judges: ClassVar[bool] = (
        True  # nothing that was written is ever erased, not even by a reset: 0 NaN is NaN
    )

    def saved_sizes(self, r: LinearRecurrence, chunk: int) -> tuple[int | torch.SymInt, ...]:
        """Sizes of the states that enter every ``chunk`` tokens, and of two empty tensors."""
        batch, heads, *size = r.memory.shape
        return -(-r.key.shape[1] // chunk) * batch * _padded(heads) * math.prod(size), 0, 0

    def backward(
        self, r: LinearRecurrence, chunk: int, saved: tuple[Tensor, ...], grad_y: Tensor, grad_memory: Tensor
    ) -> tuple[Tensor | None, ...]:
        """As ``ChunkKernel.backward``; raises as ``forward`` does."""
        r, pairs = r._replace(query=_on_pairs(r.query, r.pairs)), r.pairs
        gradients = [
            None if x is None else torch.empty_like(x, memory_format=torch.contiguous_format)
            for x in (getattr(r, name) for name in INPUTS)
        ]
        if _shares(r):  # the sum over the heads of each task
            tasks = -(-r.value.shape[2] // _together(r))
            batch, time, _, size = r.key.shape
            gradients[:2] = (r.key.new_empty(batch, time, tasks, size) for _ in range(2))
        if r.rates is not None:  # of each sequence
            gradients.append(r.rates.new_empty(r.memory.shape[0], 1, *r.rates.shape))
        self._call(self.names[1], r, chunk, saved, _on_pairs(grad_y, pairs), grad_memory, gradients)
        gradients[0] = _on_tokens(gradients[0], pairs)
        if _shares(r):
            gradients[:2] = (x.sum(2, keepdim=True) for x in gradients[:2])
        if r.rates is not None:
            gradients[-1] = gradients[-1].sum((0, 1))
        return tuple(gradients)

    def _arguments(
        self,
        r: LinearRecurrence,
        chunk: int,
        saved: tuple[Tensor, ...],
        y: Tensor,
        last: Tensor,
        gradients: Sequence[Tensor | None],
    ) -> tuple[_Arguments, list[Tensor]]:
        batch, time, heads, _ = r.value.shape
        whole = r._replace(query=r.query.expand(-1, -1, heads, -1), key=r.key.expand(-1, -1, heads, -1))
        arguments, held = _arguments(_ScanArguments, whole, chunk, saved, y, last, gradients)
        arguments.together, arguments.shared = _together(r), _shares(r)
        if r.rates is not None:
            held.append(_fill(arguments.rates, r.rates.expand(batch, time, -1, -1)))
            if gradients:
                held.append(_fill(arguments.grad_rates, gradients[-1]))
        return arguments, held


def _shares(r: LinearRecurrence) -> bool:
    """Whether all heads have the keys and queries of one."""
    return r.key.shape[2] < r.value.shape[2]


def _together(r: LinearRecurrence) -> int:
    """How many heads a task has: ``STATES`` of one value channel, in whole vectors where heads fill them."""
    size = r.key.shape[3]
    vectors = BLOCK if size == 1 or _shares(r) else 1
    return max(min(STATES // size, MOST_HEADS) // vectors, 1) * vectors


@dataclass(frozen=True)
class NativeScan(CompiledStep, ChannelScan):
    """As ``ChannelScan``, in C (``csrc/scan.c``).

    Between two states that the forward pass saves lie ``run_length`` tokens."""

    run_length: int = 16

    name: ClassVar[str] = "native-scan"
    composite: ClassVar[bool] = False
    most_bound: ClassVar[int] = sys.maxsize  # its kernel is fast enough

    def missing(self) -> str | None:
        return library.reason()

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if x is not None and x.q.device.type != "cpu":
            return "It runs on CPUs only: its blocks are sized for the caches of a CPU."
        return super().refuses(problem, x)

    def bind(self, problem: Problem, x: Inputs) -> BoundSequence | None:
        return specialised_sequence.bind(problem, x, self.name, self.run_length)

    def tokens(self, problem: Problem, x: Inputs) -> int:
        """As many as there are where a call is lowered to tensors of the size of its inputs."""
        small = x.q.shape[-1] == 1 or x.rates is not None and self._factored(problem, x) is not None
        return max(x.length, 1) if small else super().tokens(problem, x)

    def lower(self, problem: Problem, x: Inputs) -> LinearRecurrence:
        """Where the log decay is a factor times rates, and no part of the problem changes it, the kernel
        multiplies them: the product of all tokens and channels is the largest tensor of a call. Keys and
        queries that all heads share it reads from one."""
        form = None if x.rates is None else self._factored(problem, x)
        form = super().lower(problem, x) if form is None else form
        if form.pairs > 1 or form.log_decay is not None and form.log_decay.ndim == 4:
            return form
        if watched((x.q, x.k)) or not (_is_head(x.q, form.query) and _is_head(x.k, form.key)):
            return form
        return form._replace(query=x.q, key=x.k)

    def _factored(self, problem: Problem, x: Inputs) -> LinearRecurrence | None:
        """The recurrence with rates, or None if some part of the problem changes the decay."""
        if type(problem.weights).lower is not Weights.lower:
            return None
        form = problem.lower(dataclasses.replace(x, log_retention=None, rates=None))
        if form.log_decay is not None or form.pairs > 1 or form.query.shape[-1] != x.rates.shape[-1]:
            return None
        return form._replace(log_decay=x.log_retention, rates=x.rates)

    def scan(self, form: LinearRecurrence, wants_grad: bool) -> tuple[Tensor, Tensor]:
        if form.memory.numel() == 0 or form.key.shape[1] == 0:
            return super().scan(form.general(), wants_grad)
        return linear_operator.run(self.name, form, self.run_length, wants_grad)


def _is_head(given: Tensor, heads: Tensor) -> bool:
    """Whether ``heads`` are views of the one head of ``given``."""
    expanded = given.shape[2] == 1 and heads.shape[2] > 1 and heads.stride(2) == 0
    return expanded and heads.shape[3] == given.shape[3] and heads.data_ptr() == given.data_ptr()


linear_operator.KERNELS[NativeScan.name] = ScanKernel()
