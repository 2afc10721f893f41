"""The machine: its description, and the rates of matrix products and memory copies measured in the same
run."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import ttr
from ttr.engines.native import library
from ttr.experiments.bench.rounds import Clock

FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "asimd", "sve")
"""The processor's features that determine the speed of matrix products."""

SWITCHES = ("TTR_", "OMP_", "MKL_", "ONEDNN_", "DNNL_", "MALLOC_", "LD_PRELOAD")
"""Prefixes of the environment variables that affect the measurements."""

PRODUCTS = {
    "square 1024": (1, 1024, 1024, 1024),
    "256 of 64x128x128": (256, 64, 128, 128),
    ("512 of 32x128x128"): (512, 32, 128, 128),
}
"""Batch, rows, inner size and columns of the products whose rate is measured: a large one, and two of the
size of chunks."""

COPIED = 64 * 2**20
"""Bytes that the copy reads, and as many that it writes: more than the caches hold."""


def facts() -> dict[str, Any]:
    """The machine, the versions and the source code of a measurement; JSON-ready."""
    model, flags = _processor()
    return {
        "processor": model,
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": _version("transformers"),
        "ttr": ttr.__version__,
        "native": library.reason() or library.library().isa,
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith(SWITCHES)
        },
        "commit": _commit(),
        "source": source_digest(),
    }


def settle_allocator() -> None:
    """Bring glibc's allocator into the state of a long-running process, independently of what ran before.

    It reuses freed blocks up to a threshold; larger blocks are mapped by the kernel anew, page by page, which
    costs more than most arithmetic on them. The threshold rises to the size of the largest freed block, up to
    32 MiB, and would otherwise depend on the order of the cases. Blocks above 32 MiB cost page faults every
    time, as in any process whose MALLOC_ variables are not set.
    """
    torch.empty(31 * 2**18)


def _processor() -> tuple[str, set[str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    fields = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))
    }
    return fields.get("model name", platform.machine()), set(
        fields.get("flags", fields.get("Features", "")).split()
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The git commit of the source, with -dirty if files differ from it; None outside a repository."""
    command = ["git", "-C", str(Path(ttr.__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def source_digest() -> str:
    """A digest of the code that is timed: ttr's Python, C and compiled files."""
    folder = Path(ttr.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(
        p for p in folder.rglob("*") if p.suffix in (".py", ".c", ".h", ".so", ".dylib", ".dll")
    ):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def rates(threads: int, clock: Clock, rounds: int = 5) -> dict[str, float]:
    """The best of some rounds: float32 operations per second of each of ``PRODUCTS``, and bytes per second of
    a copy, read and written.

    Per second of CPU time with one thread, of elapsed time with more.
    """
    torch.set_num_threads(threads)
    now = clock.cpu if threads == 1 else clock.wall
    found: dict[str, float] = {}

    def best(call, amount: float) -> float:
        call()
        times = []
        for _ in range(rounds):
            before = now()
            call()
            times.append(now() - before)
        return amount / max(min(times), 1e-9)

    for name, (batch, rows, inner, columns) in PRODUCTS.items():
        a, b, out = (torch.rand(batch, *size) for size in ((rows, inner), (inner, columns), (rows, columns)))
        found[name] = best(lambda: torch.bmm(a, b, out=out), 2 * batch * rows * inner * columns)
    source = torch.rand(COPIED // 4)
    target = torch.empty_like(source)
    found["copy"] = best(lambda: target.copy_(source), 2 * COPIED)
    return found
