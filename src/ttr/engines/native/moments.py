"""Compiled regressions on second moments: how csrc/moments.h, chebyshev.h and ridge.h are called."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.diagnostics import record
from ttr.engines.native import library
from ttr.engines.torch.direct_solve import HOPELESS
from ttr.engines.torch.ridge.solve import ACCEPTED, REFINED, ROUNDING, TARGET, Report

SIZES = ("batch", "heads", "time", "chunk", "features", "values", "threads")
GIVEN = ("query", "key", "value", "weights", "decay", "to_end", "gram", "memory")
MADE = ("y", "end_gram", "end_memory")
BOUNDS = ("target", "refined", "rounding", "accepted", "hopeless")


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


class _Ridge(_Regression):
    """``ridge`` of csrc/ridge.h."""

    _fields_ = [
        *((name, ctypes.c_double) for name in BOUNDS),
        *((name, ctypes.c_void_p) for name in ("ridge", "solution", "report", "grad_ridge")),
    ]


class Tensors(NamedTuple):
    """The tensors of a call, N chunks of C tokens; csrc/moments.h has the equations."""

    query: Float[Tensor, "B T H F"]
    key: Float[Tensor, "B T H F"]
    value: Float[Tensor, "B T H V"]
    weights: Float[Tensor, "N BH C C"]
    decay: Float[Tensor, "N BH C"]
    to_end: Float[Tensor, "N BH C"]
    gram: Float[Tensor, "B H F F"]
    memory: Float[Tensor, "B H F V"]


class Unsolved(Exception):
    """The kernel did not bring all rows to the accuracy asked for."""


def serves(tensors: Iterable[Tensor]) -> bool:
    """Whether the library is available and all are plain tensors of one real type on the CPU."""
    given = list(tensors)
    real = all(x.is_cpu and type(x) in library.PLAIN and x.dtype in library.REALS for x in given)
    return real and len({x.dtype for x in given}) == 1 and library.available()


@dataclass(frozen=True)
class Chebyshev:
    """Read at a polynomial of the second moments, with these coefficients, mixed with the query."""

    coefficients: tuple[float, ...]
    own: ClassVar[str] = "mix"

    def forward(self, x: Tensors, mix: Float[Tensor, "B T H"], save: bool) -> tuple[Tensor, ...]:
        """The read-outs [B,T,H,V], H and U after the call and, with ``save``, what ``backward`` needs."""
        made = _outputs(x, save)
        self._call("forward", x, made, mix=library.contiguous(mix))
        return tuple(made.values())

    def backward(
        self, x: Tensors, mix: Tensor, saved: tuple[Tensor, ...], grads: tuple[Tensor, ...]
    ) -> tuple[Tensors, Tensor]:
        """The gradients of the tensors and of ``mix``, from those of the read-outs and of H and U."""
        made, given = _gradients(x, grads)
        (states,), grad_mix = saved, torch.empty(mix.shape, dtype=mix.dtype)
        self._call("backward", x, given, mix=library.contiguous(mix), states=states, grad_mix=grad_mix)
        return made, grad_mix

    def _call(self, way: str, x: Tensors, made: Mapping[str, Tensor], **others: Tensor) -> None:
        others["coefficients"] = torch.tensor(self.coefficients, dtype=torch.float64)
        _run(f"chebyshev_{way}", _Polynomial(terms=len(self.coefficients)), x, {**made, **others})


@dataclass(frozen=True)
class Ridge:
    """Read at the solution of a ridge regression.

    Both passes raise ``Unsolved``."""

    own: ClassVar[str] = "ridge"

    def forward(self, x: Tensors, ridge: Float[Tensor, "H F"], save: bool) -> tuple[Tensor, ...]:
        """As in ``Chebyshev``."""
        made, solution = _outputs(x, save), torch.empty(x.query.shape, dtype=x.query.dtype)
        self._call("forward", x, made, ridge=library.contiguous(ridge), solution=solution)
        return (*made.values(), solution) if save else tuple(made.values())

    def backward(
        self, x: Tensors, ridge: Tensor, saved: tuple[Tensor, ...], grads: tuple[Tensor, ...]
    ) -> tuple[Tensors, Tensor]:
        """As in ``Chebyshev``."""
        made, given = _gradients(x, grads)
        (states, solution), rows = saved, x.key.new_empty(x.key.shape[0], *ridge.shape)
        others = {"states": states, "solution": solution, "grad_ridge": rows}
        self._call("backward", x, given, ridge=library.contiguous(ridge), **others)
        return made, rows.sum(0)

    def _call(self, way: str, x: Tensors, made: Mapping[str, Tensor], **others: Tensor) -> None:
        eps, rows = torch.finfo(x.key.dtype).eps, x.key.shape[0] * x.key.shape[2]
        others["report"] = found = torch.zeros(rows, 4, dtype=torch.float64)
        bounds = (TARGET * eps, REFINED * eps, ROUNDING * eps, ACCEPTED * eps, HOPELESS)
        _run(f"ridge_{way}", _Ridge(**dict(zip(BOUNDS, bounds))), x, {**made, **others})
        iterations, preconditioned, residual, unsolved = found.unbind(1)
        if unsolved.any():
            raise Unsolved
        report = Report(
            iterations=int(iterations.max()),
            rows=x.key.shape[:3].numel(),
            preconditioned_rows=int(preconditioned.sum()),
            residual=residual.max().item(),
        )
        record(**report.facts())


def _outputs(x: Tensors, save: bool) -> dict[str, Tensor]:
    like = dict(zip(MADE, (x.value, x.gram, x.memory)))
    made = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in like.items()}
    if save:
        features, values = x.memory.shape[2:]
        made["states"] = x.value.new_empty(*x.decay.shape[:2], features, features + values)
    return made


def _gradients(x: Tensors, grads: tuple[Tensor, ...]) -> tuple[Tensors, dict[str, Tensor]]:
    """The gradients to be made, and the arguments of the kernel: these and the given ones."""
    made = Tensors(*(torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in x))
    given = {f"grad_{name}": library.contiguous(grad) for name, grad in zip(MADE, grads)}
    return made, given | {f"grad_{name}": tensor for name, tensor in made._asdict().items()}


def _run(kernel: str, arguments: _Regression, x: Tensors, others: Mapping[str, Tensor]) -> None:
    given = {name: library.contiguous(tensor) for name, tensor in x._asdict().items()} | dict(others)
    batch, time, heads, features = x.key.shape
    sizes = (batch, heads, time, x.decay.shape[-1], features, x.value.shape[-1], torch.get_num_threads())
    for name, size in zip(SIZES, sizes):
        setattr(arguments, name, size)
    for name, tensor in given.items():
        setattr(arguments, name, tensor.data_ptr())
    library.run(kernel, x.key.dtype, arguments)
