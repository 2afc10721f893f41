"""The C kernel of a linear recurrence and its derivative: chunk by chunk, heads in parallel."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from ttr.engines.native import library
from ttr.forms.linear_recurrence import LinearRecurrence

BLOCK = 16
"""Sizes in the kernels' memory are padded to this (``csrc/matrix.h``)."""

CHECKPOINT_INTERVAL = 256
"""Tokens between two memories that ``forward`` saves; ``backward`` recomputes those in between, which fit a
second-level cache."""

MOST_CHUNKS = 64
"""The most chunks of a checkpoint interval (``csrc/recurrence.h``)."""

POINTER = struct.Struct("P")

INPUTS = ("query", "key", "value", "read", "erase", "step", "log_decay", "memory")


class _Tensor(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("stride", ctypes.c_int64 * 3))


class _Arguments(ctypes.Structure):
    """``recurrence`` of ``csrc/recurrence.h``."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in ("batch", "heads", "time", "key_size", "value_size", "chunk", "interval", "threads")
        ),
        *((name, ctypes.c_int64) for name in ("decay", "old", "reads_first")),
        *((name, _Tensor) for name in (*INPUTS, "scale", "y", "last")),
        *((name, ctypes.c_void_p) for name in ("states", "scores", "written")),
        *((f"grad_{name}", _Tensor) for name in INPUTS),
    )


class NativeKernel:
    """Runs a ``LinearRecurrence`` on the CPU, in float32 or float64, as an ``ChunkKernel``.

    The kernels know one pair per token. Several pairs are passed as a token each, where all but the last of a
    token have a query of zeros. ``torch.get_num_threads()`` threads share batch and heads; results are the
    same to the last bit for any number of threads.

    Attributes:
        judges: whether some read-out is NaN or infinite where any input is, or a log decay is positive.
    """

    names: ClassVar[tuple[str, str]] = ("forward", "backward")
    judges: ClassVar[bool] = False

    def saved_sizes(self, r: LinearRecurrence, chunk: int) -> tuple[int | torch.SymInt, ...]:
        """Sizes of the memories that enter every checkpoint interval, of all scores, and of the corrected
        values of a delta rule."""
        (batch, time, heads), key_size = r.key.shape[:3], r.query.shape[-1]
        keys, values, rows = _padded(key_size), _padded(r.value.shape[-1]), _padded(chunk)
        chunks = -(-time // chunk)
        intervals = -(-chunks // _interval(chunk))
        delta, sets = r.read is not None, 1 if r.erase is None else 2
        scores, written = sets * (1 + delta) * rows * rows, delta * rows * values
        return tuple(
            batch * heads * size for size in (intervals * keys * values, chunks * scores, chunks * written)
        )

    def forward(
        self, r: LinearRecurrence, chunk: int, save: bool
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """As ``ChunkKernel.forward``.

        Raises:
            RuntimeError: if the kernels were not built, or their scratch memory cannot be allocated.
        """
        saved = tuple(r.query.new_empty(size) for size in (self.saved_sizes(r, chunk) if save else (0, 0, 0)))
        y, last = (
            torch.empty_like(r.value, memory_format=torch.contiguous_format),
            torch.empty_like(r.memory, memory_format=torch.contiguous_format),
        )
        r, pairs = r._replace(query=_on_pairs(r.query, r.pairs)), r.pairs
        self._call(self.names[0], r, chunk, saved, y, last, ())
        return _on_tokens(y, pairs), last, saved

    def backward(
        self, r: LinearRecurrence, chunk: int, saved: tuple[Tensor, ...], grad_y: Tensor, grad_memory: Tensor
    ) -> tuple[Tensor | None, ...]:
        """As ``ChunkKernel.backward``; raises as ``forward`` does."""
        r, pairs = r._replace(query=_on_pairs(r.query, r.pairs)), r.pairs
        inputs = (getattr(r, name) for name in INPUTS)
        gradients = [
            None if x is None else torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs
        ]
        self._call(self.names[1], r, chunk, saved, _on_pairs(grad_y, pairs), grad_memory, gradients)
        gradients[0] = _on_tokens(gradients[0], pairs)
        if r.read is r.key:
            gradients[1] += gradients[3]
            gradients[3] = None
        return tuple(gradients)

    def _call(
        self,
        name: str,
        r: LinearRecurrence,
        chunk: int,
        saved: tuple[Tensor, ...],
        y: Tensor,
        last: Tensor,
        gradients: Sequence[Tensor | None],
    ) -> None:
        arguments, held = self._arguments(r, chunk, saved, y, last, gradients)
        library.run(name, r.value.dtype, arguments)
        del held  # alive until the call is over

    def _arguments(
        self,
        r: LinearRecurrence,
        chunk: int,
        saved: tuple[Tensor, ...],
        y: Tensor,
        last: Tensor,
        gradients: Sequence[Tensor | None],
    ) -> tuple[_Arguments, list[Tensor]]:
        """The arguments of a kernel, and the tensors that must stay alive during the call."""
        return _arguments(_Arguments, r, chunk, saved, y, last, gradients)

    def prepared(self, r: LinearRecurrence, chunk: int) -> Prepared:
        """``forward`` without ``save``, for recurrences like ``r``."""
        y, last = torch.empty_like(r.value), torch.empty_like(r.memory)
        arguments, held = self._arguments(r, chunk, (), y, last, ())
        return Prepared(self.names[0], arguments, held[-1], r, y, last)


class Prepared:
    """The forward kernel for recurrences of one shape: its arguments are written once, only the addresses of
    tensors with every call. All tensors are contiguous, except for a constant log decay. ``scale`` is the one
    tensor that stays; no tensor of a caller is kept."""

    def __init__(
        self,
        kernel: str,
        arguments: _Arguments,
        scale: Tensor,
        r: LinearRecurrence,
        y: Tensor,
        last: Tensor,
    ) -> None:
        self._kernel, self._kind, self._template = kernel, type(arguments), bytes(arguments)
        self._scale = scale
        self._names = [name for name in INPUTS if getattr(r, name) is not None]
        self._offsets = [getattr(_Arguments, name).offset for name in (*self._names, "y", "last")]
        self._y, self._last = (torch.empty_like(x, device="meta") for x in (y, last))

    def __call__(self, r: LinearRecurrence) -> tuple[Tensor, Tensor]:
        """y [B,T,H,V] and the final memory [B,H,F,V].

        Raises:
            RuntimeError: if the kernel's scratch memory cannot be allocated.
        """
        arguments = self._kind.from_buffer_copy(self._template)
        arguments.threads = torch.get_num_threads()
        y, last = (torch.empty_like(x, device="cpu") for x in (self._y, self._last))
        tensors = (*(getattr(r, name) for name in self._names), y, last)
        for offset, tensor in zip(self._offsets, tensors):
            POINTER.pack_into(arguments, offset, tensor.data_ptr())
        library.run(self._kernel, y.dtype, arguments)
        return y, last


def _padded(size: int | torch.SymInt) -> int | torch.SymInt:
    return -(-size // BLOCK) * BLOCK


def _interval(chunk: int | torch.SymInt) -> int | torch.SymInt:
    """The number of chunks in a checkpoint interval."""
    return min(max(CHECKPOINT_INTERVAL // chunk, 1), MOST_CHUNKS)


def _on_pairs(x: Tensor, pairs: int) -> Tensor:
    """x [B,T,H,D] of tokens as [B,L,H,D] of pairs: at the last pair of every token, zeros at the others."""
    return x if pairs == 1 else pad(x[:, :, None], (0, 0, 0, 0, pairs - 1, 0)).flatten(1, 2)


def _on_tokens(x: Tensor, pairs: int) -> Tensor:
    """x [B,L,H,D] of pairs at the last pair of every token, [B,T,H,D]."""
    return x if pairs == 1 else x[:, pairs - 1 :: pairs].contiguous()


def _arguments(
    kind: type[_Arguments],
    r: LinearRecurrence,
    chunk: int,
    saved: tuple[Tensor, ...],
    y: Tensor,
    last: Tensor,
    gradients: Sequence[Tensor | None],
) -> tuple[_Arguments, list[Tensor]]:
    """The arguments of a kernel, and the tensors that must stay alive during the call."""
    batch, time, heads, key_size = r.query.shape
    decay, threads = 0 if r.log_decay is None else r.log_decay.ndim - 2, torch.get_num_threads()
    arguments = kind(
        batch,
        heads,
        time,
        key_size,
        r.value.shape[-1],
        chunk,
        _interval(chunk),
        threads,
        decay,
        r.old,
        r.reads_first,
    )
    tensors = dict(zip(INPUTS, (getattr(r, name) for name in INPUTS))) | {"y": y, "last": last}
    tensors["scale"] = torch.full((), r.scale, dtype=r.query.dtype).expand(batch, time, heads)
    tensors |= {f"grad_{name}": gradient for name, gradient in zip(INPUTS, gradients)}
    held = [_fill(getattr(arguments, name), tensor) for name, tensor in tensors.items() if tensor is not None]
    for field, tensor in zip(("states", "scores", "written"), saved):
        setattr(arguments, field, tensor.data_ptr() or None)
    return arguments, held


def _fill(field: _Tensor, tensor: Tensor) -> Tensor:
    """Point ``field`` at the tensor, or at a copy that kernels can read; return the one it points at."""
    tensor = library.rows(tensor) if tensor.ndim == 4 else tensor.resolve_neg()
    field.data, field.stride[:] = tensor.data_ptr(), tensor.stride()[:3]
    return tensor
