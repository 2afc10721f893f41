"""The tiers that can compute a call here: the compiled kernels of every instruction set that this machine
supports, and torch alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import torch

from ttr.engines.native import library

ISAS = library.library().runs if library.available() else ()
TIERS = (*ISAS, "torch")


@contextlib.contextmanager
def tier(name: str) -> Iterator[None]:
    """Inside the block calls are computed by the kernels of an instruction set, or by "torch" alone."""
    if name == "torch":
        with library.left_out():
            yield
        return
    handle = library.library().handle

    def function(kernel: str, dtype: torch.dtype):
        return getattr(handle, f"ttr_{kernel}_{name}_{'float' if dtype == torch.float32 else 'double'}")

    with mock.patch.object(library, "function", function):
        yield
