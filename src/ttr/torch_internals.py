"""Private symbols of torch, all of them, each with what is done where a version of torch lacks it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils import _pytree

PLAIN = (Tensor, nn.Parameter)
"""Tensors that have an address of their own; those of other classes may hold none."""

_MODES = getattr(torch._C, "_len_torch_dispatch_stack", None)

register_pytree_node = _pytree.register_pytree_node

_TRANSFORMS_SHOW = hasattr(torch._C, "_are_functorch_transforms_active") and hasattr(
    torch.autograd.forward_ad, "_current_level"
)
_is_batched = getattr(torch._C._functorch, "is_legacy_batchedtensor", None)

FLASH_ATTENTION = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
"""The fused attention on CPUs, (query, key, value, dropout, causal, attn_mask=, scale=) -> (y, log of the sum
of exponentials); None where there is none, and attention goes block by block."""

FLASH_ATTENTION_BACKWARD = getattr(
    torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None
)


def is_transformed() -> bool:
    """Whether a functorch transform (vmap, grad, jvp) or forward-mode differentiation is running. Where
    nobody
    can say, yes: torch's own operations are always right."""
    if not _TRANSFORMS_SHOW:
        return True
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def watched(tensors: Iterable[Tensor | None]) -> bool:
    """Whether torch must see the operations on these tensors as its own: some are of a class that is no plain
    tensor, or a dispatch mode is on. Where nobody can say, yes."""
    # the compiler comes first: it cannot trace the other questions
    if torch.compiler.is_compiling() or _MODES is None or _MODES() > 0 or is_transformed():
        return True
    return any(type(x) not in PLAIN for x in tensors if x is not None)


def in_batches(gradient: Tensor) -> bool:
    """Whether this is one of several gradients that torch.autograd.grad takes through the graph together.
    Where
    nobody can say, yes: such gradients are differentiated by torch's own operations."""
    return _is_batched is None or _is_batched(gradient)


def negated_lazily(x: Tensor) -> Tensor:
    """A view of x with the bit that says its numbers are negated."""
    return torch._neg_view(x)
