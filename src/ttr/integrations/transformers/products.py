"""Products of many float32 rows with a matrix by oneDNN, where it is faster than torch's own library.

torch multiplies float32 matrices on x86 by MKL, which is slower on some processors. On request torch calls
oneDNN for single products, without the process-wide switch of ``ttr.onednn``: results are of float32, with
other rounding errors, and only in this thread.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from ttr.torch_internals import GROUPED_PRODUCTS, ONEDNN_LINEAR, watched

ROWS, COLUMNS = 64, 64
"""The fewest rows and columns of a product that are worth oneDNN's start-up."""

GAIN = 1.05
"""How much faster than torch's own library oneDNN must be to be used."""

SAMPLE = 1024
"""Rows and columns of the product that is timed, over 512 channels."""


class Products(TorchFunctionMode):
    """Inside the block linear maps, also those of experts, go through oneDNN where ``_serves`` says so."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function is linear and not kwargs and _serves(*args):
            return _multiplied(*args)
        if function is GROUPED_PRODUCTS and len(args) == 2:
            (x, weights), given = args, {name for name, value in kwargs.items() if value is not None}
            # as rows of a mean group
            if (
                given == {"offs"}
                and (x.ndim, weights.ndim) == (2, 3)
                and len(kwargs["offs"]) == len(weights) > 0
                and _serves(x[:: len(weights)], weights[0].T)
            ):
                return _grouped(x, weights, kwargs["offs"].tolist())
        return function(*args, **kwargs)


def products() -> AbstractContextManager[object]:
    """``Products`` where oneDNN is faster, else nothing; nothing either where all products are torch's own,
    or must be the same in every run, which a choice by time is not."""
    given = watched(()) or torch.jit.is_tracing() or torch.are_deterministic_algorithms_enabled()
    return nullcontext() if given or not faster() else Products()


_measuring = threading.Lock()


def faster() -> bool:
    """Whether oneDNN is faster on this machine, measured once by the best of some products."""
    with _measuring:  # two threads at once would disturb each other, and might disagree
        return _measured()


@functools.cache
def _measured() -> bool:
    if ONEDNN_LINEAR is None or not torch.backends.mkldnn.is_available():
        return False
    x = weight = torch.arange(SAMPLE * 512, dtype=torch.float32, device="cpu").sin().view(SAMPLE, 512)
    times: dict[Callable[..., Tensor], list[float]] = {linear: [], _product: []}
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        for _ in range(6):
            for product, taken in times.items():
                start = time.thread_time()
                product(x, weight)
                taken.append(time.thread_time() - start)
    own, onednn = map(min, times.values())
    return own > GAIN * onednn


def _serves(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether oneDNN takes these tensors. It checks no shapes: what does not fit, or is broadcast, is torch's
    to refuse or compute."""
    tensors = (x, weight) if bias is None else (x, weight, bias)
    return (
        all(t.dtype == torch.float32 and t.is_cpu and t.layout is torch.strided for t in tensors)
        and x.shape[-1:] == weight.shape[1:]
        and weight.shape[0] >= COLUMNS
        and (bias is None or bias.shape == weight.shape[:1])
        and x.numel() >= ROWS * max(x.shape[-1], 1)
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
        and not watched(tensors)
    )


def _multiplied(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return (_Linear.apply if torch.is_grad_enabled() else _product)(x, weight, bias)


def _grouped(x: Tensor, weights: Tensor, ends: Sequence[int]) -> Tensor:
    """Rows x [R,K] up to each end times the matrix of their group, weights [E,K,N] -> [R,N], 0 after the last
    end."""
    *parts, rest = x.tensor_split(ends, dim=0)
    made = [_multiplied(part, weight.T) for part, weight in zip(parts, weights) if len(part)]
    return torch.cat([*made, rest.new_zeros(len(rest), weights.shape[2])])


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return ONEDNN_LINEAR(x, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """y = x W^T + b, with both products of its derivative by oneDNN, too."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        of_x, of_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(x if of_weight else None, weight if of_x else None)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted, rows = ctx.needs_input_grad, grad.reshape(-1, grad.shape[-1])
        # further derivatives are those of torch's own products
        product = linear if torch.is_grad_enabled() or watched((grad, x, weight)) else _product
        return (
            product(grad, weight.T) if wanted[0] else None,
            product(rows.T.contiguous(), x.flatten(0, -2).T.contiguous()) if wanted[1] else None,
            rows.sum(0) if wanted[2] else None,
        )
