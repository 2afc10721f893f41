"""The systems of local quadratic fits in their dual form, solved by csrc/local_quadratic.c. Letters as in
engines/torch/quadratic_dual.py."""

from __future__ import annotations

import ctypes

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from ttr.engines.native import library

UNIT = 16
"""Numbers of pairs are padded to a multiple of it (csrc/matrix.h)."""


class _Arguments(ctypes.Structure):
    """``struct local_quadratic`` of csrc/local_quadratic.c."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("units", "rows", "pairs", "right", "threads")),
        *(
            (name, ctypes.c_void_p)
            for name in ("products", "along", "half", "root", "ridge", "solution", "norm")
        ),
    ]


def serves(products: Tensor) -> bool:
    """Whether the library is available, and takes tensors like this."""
    plain = products.is_cpu and type(products) in library.PLAIN and products.dtype in library.REALS
    return plain and library.available()


def solve(
    products: Float[Tensor, "U P P"],
    along: Float[Tensor, "U R P"],
    half: Float[Tensor, "U R P"],
    root: Float[Tensor, "U R P"],
    ridge: Float[Tensor, "U R"],
    right: Float[Tensor, "U R n P"],
) -> tuple[Float[Tensor, "U R n P"], Float[Tensor, "U R"]]:
    """The solutions for n <= 4 right sides of every row, and the norms of the matrices, -1 where one is
    singular."""
    pairs, spare = products.shape[-1], -products.shape[-1] % UNIT
    solution = pad(right, (0, spare)) if spare else right.clone(memory_format=torch.contiguous_format)
    norm = torch.empty_like(ridge, memory_format=torch.contiguous_format)
    given = [
        pad(products, (0, spare, 0, spare)),
        *(pad(x, (0, spare)) for x in (along, half, root)),
        ridge,
    ]
    given = [library.contiguous(x) for x in given]
    call = _Arguments(
        *(len(products), ridge.shape[1], pairs + spare, right.shape[2], torch.get_num_threads()),
        *(x.data_ptr() for x in (*given, solution, norm)),
    )
    library.run("local_quadratic", products.dtype, call)
    return solution[..., :pairs], norm
