"""The library of compiled kernels: found, checked and loaded at its first use. It is optional.

``setup.py`` builds it; nothing is compiled here. Environment, read once: TTR_NATIVE=0 switches it off,
TTR_NATIVE_ISA names the instruction set to run instead of the widest, and TTR_NATIVE_LIBRARY the file to load
instead of the installed one.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import struct
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ttr.torch_internals import PLAIN as PLAIN
from ttr.torch_internals import constant_when_compiled

ABI = 10
"""The version of the kernels' arguments that this package passes, as in csrc/abi.c."""

ISAS = ("avx512", "avx2", "portable")
"""The instruction sets kernels are compiled for, widest vectors first."""

KERNELS = (
    "step",
    "forward",
    "backward",
    "scan_forward",
    "scan_backward",
    "short_convolution",
    "local_linear_forward",
    "local_linear_backward",
    "network_forward",
    "network_backward",
    "operations",
    "attend",
    "chebyshev_forward",
    "chebyshev_backward",
    "ridge_forward",
    "ridge_backward",
    "local_quadratic",
)
"""The kernels of a library, each for every instruction set that it contains, in float32 and float64."""

REALS = {torch.float32: "float", torch.float64: "double"}

FILE = "_kernels" + {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
"""The file name that ``setup.py`` gives the library."""

SEGMENT = struct.Struct("=I4xQ16xQ16x")
"""A program header of an ELF file: the segment's type (1: loaded into memory), its offset in the file and its
size there."""

INSTALL = (
    "Install gcc or clang, then install ttr again from its source: pip install --force-reinstall "
    "--no-deps <the folder with its setup.py>."
)


@dataclass(frozen=True)
class Library:
    """The loaded library, the instruction set whose kernels are called, and all that this machine can run,
    widest first."""

    path: Path
    isa: str
    runs: tuple[str, ...]
    handle: ctypes.CDLL


_left_out: ContextVar[bool] = ContextVar("ttr_native_left_out", default=False)


@contextlib.contextmanager
def left_out() -> Iterator[None]:
    """Inside the block the kernels are unavailable, as with TTR_NATIVE=0, to compare with what runs
    instead."""
    token = _left_out.set(True)
    try:
        yield
    finally:
        _left_out.reset(token)


# torch.compile cannot trace the loader, and the result is the same for the whole process
@constant_when_compiled
def available() -> bool:
    """Whether the compiled kernels can be called here."""
    return isinstance(_load(), Library) and not _left_out.get()


@constant_when_compiled
def reason() -> str | None:
    """Why there are no compiled kernels here, as a sentence with the remedy; None if there are."""
    found = _load()
    if isinstance(found, Library):
        return (
            "The native kernels are switched off here. Leave the block of library.left_out() to use them."
            if _left_out.get()
            else None
        )
    return found


def library() -> Library:
    """The loaded library.

    Raises:
        RuntimeError: if there is none; the message is ``reason()``.
    """
    found = _load()
    if not isinstance(found, Library):
        raise RuntimeError(found)
    return found


@functools.cache
def function(name: str, dtype: torch.dtype) -> Callable[..., int]:
    """The C function of a kernel for float32 or float64. It has no argument types and returns an int unless
    the caller sets others.

    Raises:
        RuntimeError: if there is no library.
        AttributeError: if the library has no such kernel.
    """
    return getattr(library().handle, f"ttr_{name}_{library().isa}_{REALS[dtype]}")


def contiguous(tensor: Tensor) -> Tensor:
    """The tensor for a kernel that knows no strides: contiguous, and without a lazy negation bit.

    The result may be a copy, which the caller must keep alive for as long as a kernel has its address; the
    same holds for ``rows``."""
    return tensor.resolve_neg().contiguous()


def rows(tensor: Tensor) -> Tensor:
    """The same for a kernel that knows the strides of all axes but the last, which is contiguous."""
    beside = tensor.shape[-1] <= 1 or tensor.stride(-1) == 1
    return tensor.resolve_neg() if beside else contiguous(tensor)


def run(name: str, dtype: torch.dtype, arguments: ctypes.Structure) -> None:
    """Call a kernel that takes its arguments in a struct, which contains the number of ``threads``.

    Raises:
        RuntimeError: if its scratch memory cannot be allocated, or there is no library.
    """
    if function(name, dtype)(ctypes.byref(arguments)):
        raise RuntimeError(
            f"The scratch memory of {arguments.threads} threads could not be allocated. Call "
            "torch.set_num_threads with a smaller number."
        )


@functools.cache
def _load() -> Library | str:
    """The library, or why there is none."""
    if os.environ.get("TTR_NATIVE") == "0":
        return "The native kernels are switched off by TTR_NATIVE=0. Unset it to use them."
    named = os.environ.get("TTR_NATIVE_LIBRARY")
    path = Path(named) if named else Path(__file__).parent / FILE
    remedy = (
        "Unset TTR_NATIVE_LIBRARY, which names it, to use those that were installed." if named else INSTALL
    )
    if not named and not path.exists():
        return (
            "The native kernels were not built when ttr was installed: no compiler took them, or "
            f"TTR_NATIVE=0 was set. {INSTALL}"
        )
    try:
        _check_length(path)
        handle = ctypes.CDLL(str(path))
        if (version := handle.ttr_abi()) != ABI:
            return (
                f"The native kernels in {path} are of version {version}, and this ttr calls version "
                f"{ABI}. {remedy}"
            )
        runs = tuple(isa for isa in ISAS if handle.ttr_runs(isa.encode()))
        for name, isa, real in itertools.product(KERNELS, runs, REALS.values()):
            getattr(handle, f"ttr_{name}_{isa}_{real}")
    except (OSError, AttributeError) as failure:
        return f"The native kernels in {path} cannot be loaded: {failure}. {remedy}"
    if not runs:
        return f"The native kernels in {path} are for other processors than this. {remedy}"
    wanted = os.environ.get("TTR_NATIVE_ISA") or runs[0]
    if wanted not in runs:
        return (
            f"The native kernels for {wanted!r}, which TTR_NATIVE_ISA asks for, do not run here. Unset "
            f"it, or use {' or '.join(runs)}."
        )
    return Library(path, wanted, runs, handle)


def _check_length(path: Path) -> None:
    """Linux maps a file without checking its length, and the process crashes when it reads the missing part
    of a truncated one; the loaders of other systems check.

    Raises:
        OSError: if an ELF file ends before a segment that is to be loaded, or cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(64)
        if len(head) < 64 or head[:5] != b"\x7fELF\x02":
            return  # not a 64-bit ELF file: the loader decides
        (start,), (count,) = struct.unpack_from("Q", head, 32), struct.unpack_from("H", head, 56)
        file.seek(start)
        table, length = file.read(count * SEGMENT.size), path.stat().st_size
    if len(table) < count * SEGMENT.size or any(
        mapped == 1 and offset + size > length for mapped, offset, size in SEGMENT.iter_unpack(table)
    ):
        raise OSError(f"it is truncated after {length} bytes")
