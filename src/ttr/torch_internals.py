"""All private symbols of torch that ttr uses, each with a fallback for versions of torch without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree

if TYPE_CHECKING:
    from torch.distributed.tensor import Placement

PLAIN = (Tensor, nn.Parameter)
"""The classes of tensors that have an address; those of other classes may have none."""

_MODES = getattr(torch._C, "_len_torch_dispatch_stack", None)

MappingKey, register_pytree_node = _pytree.MappingKey, _pytree.register_pytree_node
tree_leaves = _pytree.tree_leaves

_TRANSFORMS_SHOW = hasattr(torch._C, "_are_functorch_transforms_active") and hasattr(
    torch.autograd.forward_ad, "_current_level"
)
_is_batched = getattr(torch._C._functorch, "is_legacy_batchedtensor", None)

FLASH_ATTENTION = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
"""The fused attention on CPUs, (query, key, value, dropout, causal, attn_mask=, scale=) -> (y, log of the sum
of exponentials); None in versions without it, where attention is computed block by block."""

FLASH_ATTENTION_BACKWARD = getattr(
    torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None
)

ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""x W^T + b by oneDNN, (x, weight, bias, "none", [], "") -> y, without derivative; None in versions without
it."""

GROUPED_PRODUCTS = getattr(torch, "_grouped_mm", None)
"""What torch.nn.functional.grouped_mm calls, (x [R,K], weights [E,K,N], offs=ends of the groups) -> [R,N];
None in versions without it."""

Function = TypeVar("Function", bound=Callable[[], object])


def constant_when_compiled(function: Function) -> Function:
    """Mark a function that torch.compile calls once, instead of tracing it, and whose result is constant.

    ``torch.compiler.assume_constant_result`` sets the same mark, but imports the compiler: a second of CPU
    time in every program that imports ttr. tests/test_compile.py checks that the marks are the same."""
    function._dynamo_marked_constant = True
    return function


@constant_when_compiled
def one_graph() -> bool:
    """While a call is compiled: whether it must become a single graph, as with ``fullgraph=True`` or in an
    export. False where torch does not say: the call may then be split."""
    from torch._dynamo.symbolic_convert import InstructionTranslator

    try:
        tracer = InstructionTranslator.current_tx()
    except AttributeError:  # there is none: torch.export runs the call itself
        return True
    return getattr(tracer, "one_graph", False) or getattr(tracer, "error_on_graph_break", False)


@constant_when_compiled
def refuse_graph(sentence: str) -> NoReturn:
    """While a call is compiled as one graph: end the compilation by a RuntimeError that begins with the
    sentence. Other errors would be described as limits of the compiler."""
    try:
        from torch._dynamo.exc import UserError, UserErrorType

        error: RuntimeError = UserError(UserErrorType.INVALID_INPUT, sentence)
    except (ImportError, AttributeError, TypeError):
        error = RuntimeError(sentence)
    raise error


def is_transformed() -> bool:
    """Whether a functorch transform (vmap, grad, jvp) or forward-mode differentiation is active. True where
    torch does not say, since torch's own operations are always right."""
    if not _TRANSFORMS_SHOW:
        return True
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def strided_shard(axis: int, groups: int) -> Placement:
    """The placement of a DTensor whose axis consists of groups, of each of which every process holds a share.

    Raises:
        ValueError: in a version of torch without it.
    """
    from torch.distributed.tensor import placement_types

    if not hasattr(placement_types, "_StridedShard"):
        raise ValueError("This version of torch cannot cut an axis in groups. Use a newer one.")
    return placement_types._StridedShard(axis, split_factor=groups)


def watched(tensors: Iterable[Tensor | None]) -> bool:
    """Whether operations on these tensors must be torch's own, because some are not plain tensors or a
    dispatch mode, a transform or the compiler is active. True where torch does not say."""
    # compilation is checked first: the compiler cannot trace the other checks
    if torch.compiler.is_compiling() or _MODES is None or _MODES() > 0 or is_transformed():
        return True
    return any(type(x) not in PLAIN for x in tensors if x is not None)


def assert_within_graph(condition: Tensor, sentence: str) -> None:
    """Within a compiled graph, raise a RuntimeError when it runs and the condition does not hold."""
    torch._assert_async(condition, sentence)


def scan(
    step: Callable[[list[Tensor], Tensor], tuple[list[Tensor], Tensor]], start: list[Tensor], xs: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Within an export: the carried tensors after ``step(carried, x)`` for every x along the first axis of
    xs, and its outputs, stacked, as a loop of the graph."""
    from torch._higher_order_ops.scan import scan

    return scan(step, start, xs)


def in_batches(gradient: Tensor) -> bool:
    """Whether this is a batch of gradients that torch.autograd.grad propagates together (is_grads_batched).
    True where torch does not say: such gradients are computed by torch's own operations."""
    return _is_batched is None or _is_batched(gradient)


def negated_lazily(x: Tensor) -> Tensor:
    """A view of -x's storage: x with torch's lazy negation bit set, whose value is -x."""
    return torch._neg_view(x)
