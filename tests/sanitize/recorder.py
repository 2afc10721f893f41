"""Recordings of kernel calls: everything that a program without Python needs to repeat them (replay.c).

A record holds the struct of a call, the stretches of memory that its pointers reach, before and after, and
which pointer is which place of which stretch. A pointer reaches what the tensor holds whose ``data_ptr`` it
is, for which callers ask.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from unittest import mock

import torch

from ttr.engines.native import library

HEAD = struct.Struct("=32s16s8s5Q")
"""Kernel, instruction set, type, return value, bytes of its struct, the place of ``threads`` in it, memory
areas, pointers; as in replay.c."""

ALIKE, MOST = 2, 1 << 19
"""The number of calls recorded among those that differ only in numbers and strides, and the most bytes that a
recorded call may reach."""


def span(tensor: torch.Tensor) -> int:
    """Bytes from the first number of a tensor to its last."""
    steps = ((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return (1 + sum(steps)) * tensor.element_size() if tensor.numel() else 0


def pointers_of(kind: type) -> list[int]:
    """The offsets of the pointers in a C type."""
    if issubclass(kind, ctypes.Array):
        size = ctypes.sizeof(kind._type_)
        return [i * size + at for i in range(kind._length_) for at in pointers_of(kind._type_)]
    if issubclass(kind, ctypes.Structure):
        return [getattr(kind, name).offset + at for name, of in fields_of(kind) for at in pointers_of(of)]
    return [0] if kind is ctypes.c_void_p else []


def fields_of(kind: type[ctypes.Structure]) -> list[tuple[str, type]]:
    """The fields of a struct, those of its base first."""
    bases = [base for base in reversed(kind.__mro__) if "_fields_" in vars(base)]
    return [field for base in bases for field in vars(base)["_fields_"]]


def joined(reached: dict[int, int]) -> list[tuple[int, int]]:
    """Of address -> bytes the (first, end) of all memory reached: what overlaps is one stretch, what touches
    is not."""
    found: list[tuple[int, int]] = []
    for start, size in sorted(reached.items()):
        if found and start < found[-1][1]:
            first, end = found.pop()
            found.append((first, max(end, start + size)))
        else:
            found.append((start, start + size))
    return found


class Kernel:
    """A kernel that records its calls, called like the ctypes function that it wraps."""

    def __init__(self, recorder: Recorder, function: ctypes._CFuncPtr) -> None:
        self.recorder, self.function, self.__name__ = recorder, function, function.__name__
        self.name, self.isa, self.real = self.__name__.removeprefix("ttr_").rsplit("_", 2)

    def __call__(self, *arguments: object) -> int:
        *tensors, given = arguments
        given = getattr(given, "_obj", given)
        function = self.function
        function.argtypes = [*[ctypes.c_char_p] * len(tensors), ctypes.c_void_p]
        with self.recorder.lock:
            return self.recorder.call(
                self, b"".join(tensors), given, lambda: function(*tensors, ctypes.byref(given))
            )


class Recorder:
    """A stand-in for the handle of a library: calls its kernels and records the calls in a file."""

    def __init__(self, handle: ctypes.CDLL, file: BinaryIO) -> None:
        self.handle, self.file, self.lock = handle, file, threading.Lock()
        self.reached: dict[int, int] = {}
        self.alike: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __getattr__(self, symbol: str) -> Kernel | ctypes._CFuncPtr:
        function = getattr(self.handle, symbol)
        name = symbol.removeprefix("ttr_").rsplit("_", 2)[0]
        return Kernel(self, function) if name in library.KERNELS else function

    def call(self, kernel: Kernel, tensors: bytes, given: ctypes.Structure, run: Callable[[], int]) -> int:
        """Run a call, and record it unless enough similar ones are recorded. ``tensors`` replace the first
        bytes of the struct."""
        layout, threads = bytearray(tensors + bytes(given)[len(tensors) :]), type(given).threads.offset
        places = {
            at: found for at in pointers_of(type(given)) if (found := struct.unpack_from("Q", layout, at)[0])
        }
        stretches = joined({address: self.reached[address] for address in places.values()})
        pointers = []
        for at, address in places.items():
            index = next(i for i, (first, end) in enumerate(stretches) if first <= address < end)
            pointers.append((at, index, address - stretches[index][0]))
            struct.pack_into("Q", layout, at, 0)
        struct.pack_into("q", layout, threads, 0)
        sizes = [end - first for first, end in stretches]
        scalars = [
            getattr(given, field)
            for field, of in fields_of(type(given))
            if of in (ctypes.c_int64, ctypes.c_double)
        ]
        order = list(dict.fromkeys(index for _, index, _ in pointers))  # addresses differ between runs
        looks = repr(
            (kernel.name, kernel.real, scalars, [(at, order.index(index)) for at, index, _ in pointers])
        )
        if self.alike[looks] == ALIKE or sum(sizes) > MOST:
            return run()
        before = [ctypes.string_at(first, size) for (first, _), size in zip(stretches, sizes)]
        result = run()
        self.alike[looks] += 1
        self.calls[f"{kernel.name} {kernel.real}"] += 1
        counts = (result, len(layout), threads, len(stretches), len(pointers))
        self.file.write(
            HEAD.pack(*(name.encode() for name in (kernel.name, kernel.isa, kernel.real)), *counts) + layout
        )
        for (first, _), size, old in zip(stretches, sizes, before):
            self.file.write(struct.pack("Q", size) + old + ctypes.string_at(first, size))
        for pointer in pointers:
            self.file.write(struct.pack("3Q", *pointer))
        return result


@contextlib.contextmanager
def recording(path: Path) -> Iterator[Recorder]:
    """Inside the block the calls of all kernels are recorded in a file, for one instruction set; replay.c
    repeats them with all."""
    found, data_ptr = library.library(), torch.Tensor.data_ptr

    def asked(tensor: torch.Tensor) -> int:
        address = data_ptr(tensor)
        recorder.reached[address] = span(tensor)
        return address

    with path.open("wb") as file:
        recorder = Recorder(found.handle, file)
        stand_in = functools.cache(lambda: dataclasses.replace(found, handle=recorder, runs=(found.isa,)))
        library.function.cache_clear()
        try:
            with (
                mock.patch.object(library, "_load", stand_in),
                mock.patch.object(torch.Tensor, "data_ptr", asked),
            ):
                yield recorder
        finally:
            library.function.cache_clear()
