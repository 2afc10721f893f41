"""Compiled ridge regression by a polynomial of the second moments: how csrc/moments.h is called."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.engines.native import library

SIZES = ("batch", "heads", "time", "chunk", "features", "values", "threads")
STATES = ("gram", "memory")
GIVEN = ("query", "key", "value", "weights", "decay", "to_end", *STATES)
MADE = ("y", *(f"end_{name}" for name in STATES))


class _Regression(ctypes.Structure):
    """``regression`` of csrc/moments.h, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in SIZES),
        *((name, ctypes.c_void_p) for name in (*GIVEN, *MADE, "states")),
        *((f"grad_{name}", ctypes.c_void_p) for name in (*MADE, *GIVEN)),
    ]


class _Polynomial(_Regression):
    """``polynomial`` of csrc/chebyshev.h."""

    _fields_ = [
        ("terms", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("coefficients", "mix", "grad_mix")),
    ]


class Tensors(NamedTuple):
    """The tensors of a call, N chunks of C tokens; csrc/chebyshev.h has the equations."""

    query: Float[Tensor, "B T H F"]
    key: Float[Tensor, "B T H F"]
    value: Float[Tensor, "B T H V"]
    mix: Float[Tensor, "B T H"]
    weights: Float[Tensor, "N BH C C"]
    decay: Float[Tensor, "N BH C"]
    to_end: Float[Tensor, "N BH C"]
    gram: Float[Tensor, "B H F F"]
    memory: Float[Tensor, "B H F V"]


def serves(tensors: Iterable[Tensor]) -> bool:
    """Whether the library is available and all are plain tensors of one real type on the CPU."""
    given = list(tensors)
    real = all(x.is_cpu and type(x) in library.PLAIN and x.dtype in library.REALS for x in given)
    return real and len({x.dtype for x in given}) == 1 and library.available()


def forward(
    coefficients: Float[Tensor, " K"], x: Tensors, save: bool
) -> tuple[Tensor, Tensor, Tensor, Float[Tensor, "N BH F F+V"] | None]:
    """The read-outs [B,T,H,V], H and U after the call and, with ``save``, before every chunk, which
    ``backward`` needs."""
    made = {
        "y": torch.empty_like(x.value, memory_format=torch.contiguous_format),
        "end_gram": torch.empty_like(x.gram, memory_format=torch.contiguous_format),
        "end_memory": torch.empty_like(x.memory, memory_format=torch.contiguous_format),
    }
    if save:
        features, values = x.memory.shape[2:]
        made["states"] = x.value.new_empty(*x.decay.shape[:2], features, features + values)
    _call("chebyshev_forward", coefficients, x, made)
    return made["y"], made["end_gram"], made["end_memory"], made.get("states")


def backward(coefficients: Float[Tensor, " K"], x: Tensors, states: Tensor, *grads: Tensor) -> Tensors:
    """The gradients of all tensors, from those of the read-outs and of H and U after the call."""
    made = {
        name: torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for name, tensor in x._asdict().items()
    }
    given = {f"grad_{name}": library.contiguous(grad) for name, grad in zip(MADE, grads)}
    given |= {f"grad_{name}": tensor for name, tensor in made.items()}
    _call("chebyshev_backward", coefficients, x, given | {"states": states})
    return Tensors(**made)


def _call(kernel: str, coefficients: Tensor, x: Tensors, others: Mapping[str, Tensor]) -> None:
    batch, time, heads, features = x.key.shape
    given = {name: library.contiguous(tensor) for name, tensor in x._asdict().items()}
    arguments = _Polynomial(
        batch=batch,
        heads=heads,
        time=time,
        chunk=x.decay.shape[-1],
        features=features,
        values=x.value.shape[-1],
        terms=len(coefficients),
        threads=torch.get_num_threads(),
        coefficients=coefficients.data_ptr(),
        **{name: tensor.data_ptr() for name, tensor in (given | others).items()},
    )
    library.run(kernel, x.key.dtype, arguments)
