"""The compiled short convolution: how csrc/convolution.c is called."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from ttr.engines.native import library

MAX_WIDTH = 8
"""The widest convolution it runs, as in csrc/convolution.c."""


class _Convolution(ctypes.Structure):
    """``Convolution`` of csrc/convolution.c, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("sequences", "channels", "width", "silu", "threads")),
        ("bounds", ctypes.c_void_p),
        *(
            (name, ctypes.c_int64)
            for name in ("tokens", "x_row_stride", "x_stride", "grad_row_stride", "grad_stride")
        ),
        *(
            (name, ctypes.c_void_p)
            for name in ("x", "tail", "weight", "bias", "y", "grad_y", "grad_x", "grad_tail", "sums")
        ),
    ]


def serves(*tensors: Tensor | None, width: int) -> bool:
    """Whether the library is available and can run a convolution of that width on these tensors: on the CPU,
    all in float32 or all in float64."""
    dtypes = {tensor.dtype for tensor in tensors if tensor is not None}
    real = all(tensor is None or tensor.is_cpu and type(tensor) in library.PLAIN for tensor in tensors)
    return (
        real
        and width <= MAX_WIDTH
        and len(dtypes) == 1
        and dtypes <= {torch.float32, torch.float64}
        and library.available()
    )


def forward(
    x: Tensor, tail: Tensor, weight: Tensor, bias: Tensor | None, bounds: Tensor | None, silu: bool
) -> Tensor:
    """y [B,T,C] as ``ttr.operators.short_convolution`` defines it."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _call(x, tail, weight, bias, bounds, silu, y=y)
    return y


def backward(
    grad: Tensor,
    x: Tensor,
    tail: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    bounds: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, tail, weight and bias."""
    width, channels = weight.shape
    grad_x, grad_tail = (
        torch.empty(x.shape, dtype=x.dtype, device=x.device),
        torch.zeros(tail.shape, dtype=x.dtype, device=x.device),
    )
    sums = torch.zeros(2, width + 1, channels, dtype=x.dtype, device=x.device)
    grad = library.rows(grad)
    _call(
        x,
        tail,
        weight,
        bias,
        bounds,
        silu,
        grad_row_stride=grad.stride(0),
        grad_stride=grad.stride(1),
        grad_y=grad,
        grad_x=grad_x,
        grad_tail=grad_tail,
        sums=sums,
    )
    return grad_x, grad_tail, sums[0, :width].clone(), sums[0, width].clone()


def _call(
    x: Tensor,
    tail: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    bounds: Tensor | None,
    silu: bool,
    **others: Tensor | int,
) -> None:
    x, tail, weight = library.rows(x), library.contiguous(tail), library.contiguous(weight)
    bias, bounds = (
        None if bias is None else library.contiguous(bias),
        None if bounds is None else library.contiguous(bounds.to(torch.int64)),
    )
    given = {"x": x, "tail": tail, "weight": weight, "bias": bias, "bounds": bounds, **others}
    fields = {name: value.data_ptr() if isinstance(value, Tensor) else value for name, value in given.items()}
    call = _Convolution(
        sequences=len(tail),
        channels=x.shape[2],
        width=len(weight),
        silu=silu,
        threads=torch.get_num_threads(),
        tokens=x.shape[1],
        x_row_stride=x.stride(0),
        x_stride=x.stride(1),
        **fields,
    )
    library.function("short_convolution", x.dtype)(ctypes.byref(call))
