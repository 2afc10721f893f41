"""Softmax attention of one token by the compiled kernel (csrc/attend.c)."""

from __future__ import annotations

import ctypes

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.engines.native import library

THREADED = 1 << 20
"""Bytes of keys above which several threads pay, and torch's kernel, which has them at hand, is faster."""


class _Attention(ctypes.Structure):
    """``struct attention`` of csrc/attend.c."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "heads", "key_heads", "pairs", "features", "values")),
        ("threads", ctypes.c_int64),
        ("query_strides", ctypes.c_int64 * 2),
        *((f"{name}_strides", ctypes.c_int64 * 3) for name in ("key", "value", "weight")),
        ("scale", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "log_weight", "y")),
    ]


def serves(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether to read these tensors by the kernel: on the CPU, all in float32 or all in float64, and not many
    where there are several threads."""
    tensors = query, key, value
    return (
        library.available()
        and (key.nbytes <= THREADED or torch.get_num_threads() == 1)
        and all(type(x) in library.PLAIN and x.is_cpu for x in tensors)
        and {x.dtype for x in tensors} in ({torch.float32}, {torch.float64})
    )


def attend(
    query: Float[Tensor, "B H F"],
    key: Float[Tensor, "B N h F"],
    value: Float[Tensor, "B N h V"],
    log_weight: Float[Tensor, "B N H"] | None,
    scale: float,
) -> Float[Tensor, "B H V"]:
    """The read-outs of the queries; h divides H, and every query has a pair of weight above 0."""
    query, key, value = map(library.rows, (query, key, value))
    batch, pairs, key_heads, features = key.shape
    y = query.new_empty(*query.shape[:2], value.shape[-1])
    log_weight = None if log_weight is None else log_weight.resolve_neg()
    call = _Attention(
        batch,
        query.shape[1],
        key_heads,
        pairs,
        features,
        value.shape[-1],
        1,
        query.stride()[:2],
        key.stride()[:3],
        value.stride()[:3],
        (0, 0, 0) if log_weight is None else log_weight.stride(),
        scale,
        *(None if x is None else x.data_ptr() for x in (query, key, value, log_weight, y)),
    )
    if library.function("attend", query.dtype)(ctypes.byref(call)):
        raise MemoryError(
            "The native kernel for attention could not allocate its scratch memory. Free some, or set "
            "TTR_NATIVE=0."
        )
    return y
