"""Tensors exchanged between processes, with their gradients.

A backward pass communicates in the reverse order of the forward pass, in which autograd runs its nodes, so
that processes that call the same things meet. Each of these functions must therefore be part of the graph of
every process: where nothing is read, ``connected`` joins it to what is.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

_sending: list[tuple[dist.Work, Tensor]] = []
"""Messages under way, whose tensors must not be freed."""


def gather(x: Float[Tensor, " N"], group: dist.ProcessGroup) -> Float[Tensor, "processes N"]:
    """The x of every process, which all have one size."""
    return _Gather.apply(x, group)


def send(
    tensors: Sequence[Tensor], inputs: Float[Tensor, " 0"], group: dist.ProcessGroup, to: int
) -> Float[Tensor, " 0"]:
    """Send tensors of one dtype to another process of the group, without waiting for it, and return nothing
    as a tensor, through which the gradient comes back if ``inputs`` have one."""
    return _Send.apply(connected(flat(*tensors), inputs), group, to)


def receive(
    like: Sequence[Tensor], inputs: Float[Tensor, " 0"], group: dist.ProcessGroup, of: int
) -> list[Tensor]:
    """What another process of the group sends: tensors with the shapes and the dtype of these."""
    numbers = like[0].new_empty(sum(tensor.numel() for tensor in like))
    return unflat(_Receive.apply(inputs, numbers, group, of), like)[0]


def flat(*tensors: Tensor) -> Float[Tensor, " N"]:
    """The numbers of several tensors as one message."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def unflat(
    message: Float[Tensor, " N"], like: Sequence[Tensor]
) -> tuple[list[Tensor], Float[Tensor, " rest"]]:
    """The tensors with the shapes of these at the beginning of a message, and the rest of it."""
    *parts, rest = message.tensor_split(list(itertools.accumulate(tensor.numel() for tensor in like)))
    return [part.view_as(tensor) for part, tensor in zip(parts, like)], rest


def nothing(*tensors: Tensor) -> Float[Tensor, " 0"]:
    """No numbers of these tensors, and a part of their graph."""
    return torch.cat([tensor.flatten()[:0] for tensor in tensors])


def connected(x: Tensor, *others: Tensor) -> Tensor:
    """x as part of a graph in which the others are, too, with gradients of 0."""
    graph = [empty.sum().to(x.dtype) for tensor in others if (empty := nothing(tensor)).requires_grad]
    return x + sum(graph) if graph else x


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        gathered = x.new_empty(dist.get_world_size(group), *x.shape)
        dist.all_gather(list(gathered.unbind()), x.contiguous(), group=group)
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        summed = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed, group=ctx.group)  # every backend has it, unlike reduce_scatter
        return summed[dist.get_rank(ctx.group)], None


class _Send(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup, to: int) -> Tensor:
        ctx.group, ctx.to, ctx.size = group, to, x.numel()
        _post(x, group, to)
        return x.new_empty(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _await(gradient.new_empty(ctx.size), ctx.group, ctx.to), None, None


class _Receive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, numbers: Tensor, group: dist.ProcessGroup, of: int) -> Tensor:
        ctx.group, ctx.of, ctx.nothing = group, of, torch.empty_like(inputs)
        ctx.mark_dirty(numbers)
        return _await(numbers, group, of)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _post(gradient, ctx.group, ctx.of)
        return ctx.nothing, None, None, None


def _post(x: Tensor, group: dist.ProcessGroup, to: int) -> None:
    _sending[:] = [message for message in _sending if not message[0].is_completed()]
    message = x.detach().clone(memory_format=torch.contiguous_format)
    _sending.append((dist.isend(message, dist.get_global_rank(group, to), group=group), message))


def _await(x: Tensor, group: dist.ProcessGroup, of: int) -> Tensor:
    dist.recv(x, dist.get_global_rank(group, of), group=group)
    return x
