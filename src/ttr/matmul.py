"""Products of float32 matrices through oneDNN instead of torch's default library (MKL on x86), for a block of
code."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator

import torch

ROUNDED = 128 * torch.finfo(torch.float32).eps
"""A relative error above that of any float32 product; bfloat16's is 2^-9."""

_lock = threading.Lock()
_blocks = 0  # the number of blocks now open, in all threads
_before = ""  # the setting before the first of them


@contextlib.contextmanager
def onednn() -> Iterator[None]:
    """Inside the block torch multiplies float32 matrices on the CPU with oneDNN, whose kernels use wider
    vectors than MKL's on some processors, mainly AMD's with AVX-512. Results have float32 precision, but
    other rounding errors. The previous setting is restored afterwards.

    torch has one switch for the whole process: other threads use oneDNN too, until the last open block ends.
    In an asynchronous function leave the block before ``await``. Enter it outside of functions that
    torch.compile compiles. Inside, ``torch.get_float32_matmul_precision()`` may raise, as it does not support
    the value of torch.backends.mkldnn.matmul.fp32_precision.

    Raises:
        RuntimeError: if torch has no oneDNN, or oneDNN would round to bfloat16; the message says which.
    """
    reason = refuses()
    if reason:
        raise RuntimeError(reason)
    with _switched():
        yield


def refuses() -> str | None:
    """Why ``onednn`` cannot be used here, as a sentence; None if it can."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return (
            "This torch has no oneDNN, or torch.backends.mkldnn.enabled is off. Multiply without "
            "ttr.onednn()."
        )
    if torch.cpu._is_amx_tile_supported():
        return (
            "On this processor (AMX) oneDNN would round float32 products to bfloat16. Multiply without "
            "ttr.onednn()."
        )
    error = _error_of_a_product()
    if not error <= ROUNDED:
        return (
            f"oneDNN rounds float32 products here: one was wrong by {error:.1e}. Multiply without "
            "ttr.onednn()."
        )
    return None


@functools.cache
def _error_of_a_product() -> float:
    """The larger of the relative errors of a single and of a batched product, against float64."""
    with _switched(), torch.autocast("cpu", enabled=False):
        numbers = (
            torch.arange(1, 1 + 2 * 4 * 128 * 128, dtype=torch.float32, device="cpu")
            .sin()
            .reshape(2, 4, 128, 128)
        )
        pairs = [numbers, numbers[:, 0]]
        return max(
            ((a @ b - a.double() @ b.double()).abs().max() / (a.double() @ b.double()).abs().max()).item()
            for a, b in pairs
        )


@contextlib.contextmanager
def _switched() -> Iterator[None]:
    global _blocks, _before
    with _lock:
        if _blocks == 0:
            _before = _precision()
            _set_precision("bf16" if _has_new_switch() else "medium")
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if _blocks == 0:
                _set_precision(_before)


def _has_new_switch() -> bool:
    """Whether torch has a switch for oneDNN's products only. Setting either switch makes the getter of the
    other raise, so only one is used."""
    return hasattr(torch.backends.mkldnn, "matmul")


def _precision() -> str:
    return (
        torch.backends.mkldnn.matmul.fp32_precision
        if _has_new_switch()
        else torch.get_float32_matmul_precision()
    )


def _set_precision(precision: str) -> None:
    if _has_new_switch():
        torch.backends.mkldnn.matmul.fp32_precision = precision
    else:
        torch.set_float32_matmul_precision(precision)
