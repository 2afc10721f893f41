"""Compiled polynomials of the second moments of all tokens: how csrc/chebyshev.c is called."""

from __future__ import annotations

import ctypes

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.engines.native import library

GIVEN = ("right", "norm", "grad_solution")
MADE = (
    "solution",
    "grad_right",
    "grad_keys",
    "grad_weights",
    "grad_decay",
    "grad_gram",
    "grad_norm",
)


class _Rows(ctypes.Structure):
    """``rows`` of csrc/moments.h."""

    _fields_ = [("data", ctypes.c_void_p), ("group", ctypes.c_int64), ("row", ctypes.c_int64)]

    @staticmethod
    def of(tensor: Float[Tensor, "G rows columns"]) -> _Rows:
        return _Rows(tensor.data_ptr(), tensor.stride(0), tensor.stride(1))


class _Polynomial(ctypes.Structure):
    """``polynomial`` of csrc/chebyshev.c, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("groups", "tokens", "features")),
        *((name, _Rows) for name in ("keys", "gram")),
        *((name, ctypes.c_void_p) for name in ("weights", "decay")),
        *((name, ctypes.c_int64) for name in ("terms", "threads")),
        *((name, ctypes.c_void_p) for name in ("coefficients", *GIVEN, *MADE)),
    ]


def serves(*tensors: Tensor) -> bool:
    """Whether the library is available and all are plain tensors of one real type on the CPU."""
    real = all(x.is_cpu and type(x) in library.PLAIN and x.dtype in library.REALS for x in tensors)
    return real and len({x.dtype for x in tensors}) == 1 and library.available()


def evaluate(
    coefficients: Float[Tensor, " K"],
    right: Float[Tensor, "G C F"],
    weights: Float[Tensor, "G C C"],
    keys: Float[Tensor, "G C F"],
    decay: Float[Tensor, "G C 1"],
    gram: Float[Tensor, "G F F"],
    norm: Float[Tensor, "G C"],
) -> Float[Tensor, "G C F"]:
    """x_t = (2 / f_t) sum_k c_k T_k(1 - 2 H_t / f_t) q_t with q the right-hand side, f the norm and H_t = a_t
    H_0 + sum_i W_ti k_i k_i^T. W is 0 above its diagonal."""
    solution = torch.empty_like(right, memory_format=torch.contiguous_format)
    _call("chebyshev_forward", coefficients, right, weights, keys, decay, gram, norm, solution=solution)
    return solution


def differentiate(
    coefficients: Float[Tensor, " K"], grad: Float[Tensor, "G C F"], *tensors: Tensor
) -> tuple[Tensor, ...]:
    """The gradients of the tensors of ``evaluate``, in their order, from that of the solution."""
    names = ("right", "weights", "keys", "decay", "gram", "norm")
    made = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in tensors]
    grads = {f"grad_{name}": x for name, x in zip(names, made)}
    _call("chebyshev_backward", coefficients, *tensors, grad_solution=library.contiguous(grad), **grads)
    return tuple(made)


def _call(
    kernel: str,
    coefficients: Tensor,
    right: Tensor,
    weights: Tensor,
    keys: Tensor,
    decay: Tensor,
    gram: Tensor,
    norm: Tensor,
    **others: Tensor,
) -> None:
    given = {"right": right, "norm": norm, "weights": weights, "decay": decay}
    held = {name: library.contiguous(x) for name, x in given.items()} | others
    keys, gram = library.rows(keys), library.rows(gram)
    arguments = _Polynomial(
        groups=keys.shape[0],
        tokens=keys.shape[1],
        features=keys.shape[2],
        keys=_Rows.of(keys),
        gram=_Rows.of(gram),
        terms=len(coefficients),
        threads=torch.get_num_threads(),
        coefficients=coefficients.data_ptr(),
        **{name: x.data_ptr() for name, x in held.items()},
    )
    library.run(kernel, right.dtype, arguments)
