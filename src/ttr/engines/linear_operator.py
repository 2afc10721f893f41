"""A linear recurrence as a torch operator, so that autograd, torch.compile and fake tensors support it.

The kernel that runs it is named by a string, since an operator takes no objects. Second derivatives go
through torch's own operations: under ``create_graph``, and for batched gradients, the backward pass
differentiates the chunkwise form instead. There is no rule for ``vmap``: under functorch, dispatch chooses
the chunkwise form from the start.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from ttr.engines.torch.linear import chunkwise
from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.torch_internals import in_batches, is_transformed, watched


class ChunkKernel(Protocol):
    """Runs a recurrence and its derivative, chunk by chunk, without autograd inside.

    ``chunk`` is the number of tokens of a chunk, a power of two. Chunks are counted from the first token of
    the call.
    """

    def saved_sizes(self, r: LinearRecurrence, chunk: int) -> tuple[int | torch.SymInt, ...]:
        """Number of entries of every 1-D tensor that ``forward`` hands to ``backward``."""

    def forward(
        self, r: LinearRecurrence, chunk: int, save: bool
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """y [B,T,H,V], the final memory [B,H,F,V], and the tensors of ``saved_sizes``, which are empty
        without ``save``."""

    def backward(
        self, r: LinearRecurrence, chunk: int, saved: tuple[Tensor, ...], grad_y: Tensor, grad_memory: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Gradients of query, key, value, read, erase, step, log_decay, memory and rates, in that order; None
        where the input is None. Where ``r.read`` is ``r.key``, the gradient of the key includes that of the
        read, which is None."""


KERNELS: dict[str, ChunkKernel] = {}
"""Kernels by name; the module that defines a kernel registers it here."""

TENSORS, FIELDS = 9, 13
"""How many fields of a recurrence are tensors, and how many a kernel reads: the tensors come first, then
numbers, then fields for ``finish`` only."""


def run(kernel: str, r: LinearRecurrence, chunk: int, save: bool) -> tuple[Tensor, Tensor]:
    """y [B,T,H,V] and the final memory [B,H,F,V] of a recurrence; with ``save`` it can be differentiated.

    Where no torch mode or transform observes the call, the kernel is called directly: the overhead of an
    operator exceeds the time of a few hundred tokens.
    """
    plain = not watched(r[:TENSORS])
    if plain and not save:
        y, memory, _ = KERNELS[kernel].forward(r, chunk, False)
        return y, memory
    shared = r.read is r.key
    arguments = (*r[:3], None if shared else r.read, *r[4:FIELDS], shared, kernel, chunk, save)
    y, memory = Direct.apply(*arguments) if plain else linear_recurrence(*arguments)[:2]
    return y, memory


_RECURRENCE = (
    "Tensor query, Tensor key, Tensor value, Tensor? read, Tensor? erase, Tensor? step, Tensor? "
    "log_decay, Tensor memory, Tensor? rates, int pairs, "
    "bool old, bool reads_first, float scale, bool reads_key, str kernel, int chunk"
)


def _given(arguments: tuple) -> tuple[LinearRecurrence, str, int, tuple]:
    """The recurrence, the kernel's name, the tokens of a chunk and the other arguments of an operator."""
    reads_key, kernel, chunk, *others = arguments[FIELDS:]
    r = LinearRecurrence(*arguments[:FIELDS])
    return r._replace(read=r.key) if reads_key else r, kernel, chunk, tuple(others)


@torch.library.custom_op(
    "ttr::linear_recurrence",
    mutates_args=(),
    schema=f"({_RECURRENCE}, bool save) -> (Tensor, Tensor, Tensor[])",
)
def linear_recurrence(*arguments: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    """See ``LinearRecurrence``; with ``reads_key`` the read is the key, and the argument ``read`` None.
    Chunks have ``chunk`` tokens."""
    r, kernel, chunk, (save,) = _given(arguments)
    y, memory, saved = KERNELS[kernel].forward(r, chunk, save)
    return y, memory, list(saved)


@torch.library.custom_op(
    "ttr::linear_recurrence_backward",
    mutates_args=(),
    schema=f"({_RECURRENCE}, Tensor[] saved, Tensor grad_y, Tensor grad_memory) -> Tensor[]",
)
def linear_recurrence_backward(*arguments: Any) -> list[Tensor]:
    """Gradients of the tensors that are not None, in their order."""
    r, kernel, chunk, (saved, grad_y, grad_memory) = _given(arguments)
    return [
        gradient
        for gradient in KERNELS[kernel].backward(r, chunk, tuple(saved), grad_y, grad_memory)
        if gradient is not None
    ]


@linear_recurrence.register_fake
def _(*arguments):
    r, kernel, chunk, (save,) = _given(arguments)
    sizes = KERNELS[kernel].saved_sizes(r, chunk)
    return (
        r.value.new_empty(*r.query.shape[:2], *r.value.shape[2:]),
        r.query.new_empty(r.memory.shape),
        [r.query.new_empty(n if save else 0) for n in sizes],
    )


@linear_recurrence_backward.register_fake
def _(query, key, value, read, erase, step, log_decay, memory, rates, *rest):
    return [
        query.new_empty(x.shape)
        for x in (query, key, value, read, erase, step, log_decay, memory, rates)
        if x is not None
    ]


def _setup_context(ctx, inputs: tuple, output: tuple) -> None:
    ctx.settings = inputs[TENSORS:]
    ctx.save_for_backward(*inputs[:TENSORS], *output[2])
    ctx.mark_non_differentiable(*output[2])


def _backward(
    ctx, grad_y: Tensor, grad_memory: Tensor, grad_saved: list[Tensor]
) -> tuple[Tensor | None, ...]:
    kept = ctx.saved_tensors  # read once: activation checkpointing recomputes them at every access
    tensors, saved = kept[:TENSORS], kept[TENSORS:]
    pairs, old, reads_first, scale, reads_key, _, chunk, _ = ctx.settings
    present = [x is not None for x in tensors]
    with torch.autocast(tensors[0].device.type, enabled=False):
        if torch.is_grad_enabled() or is_transformed() or in_batches(grad_y) or in_batches(grad_memory):
            gradients = _differentiable(
                tensors, (pairs, old, reads_first, scale), reads_key, chunk, grad_y, grad_memory
            )
        else:
            arguments = (*tensors, *ctx.settings[:-1])
            if watched((*tensors, grad_y, grad_memory)):
                gradients = linear_recurrence_backward(*arguments, list(saved), grad_y, grad_memory)
            else:
                r, kernel, *_ = _given(arguments)
                found = KERNELS[kernel].backward(r, chunk, saved, grad_y, grad_memory)
                gradients = [gradient for gradient in found if gradient is not None]
    each = iter(gradients)
    return *(next(each) if there else None for there in present), *(None,) * len(ctx.settings)


def _differentiable(
    tensors: tuple[Tensor | None, ...],
    kind: tuple[int, bool, bool, float],
    reads_key: bool,
    chunk: int,
    grad_y: Tensor,
    grad_memory: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients that can be differentiated again, of the tensors that are not None.

    They are taken with respect to views of the inputs: where one input was computed from another, only the
    outer graph differentiates that computation."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = [
            None if x is None else x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
            for x in tensors
        ]
        r = LinearRecurrence(*inputs, *kind).general()
        outputs = chunkwise.run(r._replace(read=r.key) if reads_key else r, chunk)
    return torch.autograd.grad(
        outputs,
        [x for x in inputs if x is not None],
        (grad_y, grad_memory),
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )


linear_recurrence.register_autograd(_backward, setup_context=_setup_context)


class Direct(torch.autograd.Function):
    """``linear_recurrence`` for plain tensors, without the overhead of an operator."""

    @staticmethod
    def forward(ctx, *arguments: Any) -> tuple[Tensor, Tensor]:
        r, kernel, chunk, _ = _given(arguments)
        y, memory, saved = KERNELS[kernel].forward(r, chunk, True)
        ctx.settings = arguments[TENSORS:]
        ctx.save_for_backward(*arguments[:TENSORS], *saved)
        return y, memory

    @staticmethod
    def backward(ctx, grad_y: Tensor, grad_memory: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad_y, grad_memory, [])
