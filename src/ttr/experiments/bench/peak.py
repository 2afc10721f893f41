"""The memory that a call takes besides its inputs, measured in a separate, newly forked process.

The process is forked from one that has imported torch and ttr but has run nothing, so no memory freed by an
earlier call can be reused. A short call first loads libraries and persistent buffers, and freed memory is
returned to the kernel. Then, on Linux, the peak resident size (VmHWM) is reset, and read again after the
call. If that is not permitted, the peak over the life of the process (ru_maxrss) is used, which is too low by
the memory that was taken and returned before.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from ttr.experiments.bench.cases import Case, cases
from ttr.experiments.bench.families import FAMILIES

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """A context in which peaks can be measured. It owns the process that the others are forked from."""

    def __enter__(self) -> PeakMemory:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._pool = ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def of(
        self, case: Case, contestant: str, engines: tuple[str, ...], onednn: bool
    ) -> dict[str, Any] | None:
        """Bytes besides the inputs ("bytes") and the counter they were read from ("mark"); None if the
        process was killed for lack of memory."""
        question = (
            case.family.name,
            case.direction,
            tuple(vars(case.shape).items()),
            contestant,
            engines,
            onednn,
        )
        try:
            return self._pool.submit(_measure, *question).result()
        except BrokenProcessPool:
            self.__enter__()
            return None


def _measure(
    family: str,
    direction: str,
    shape: tuple[tuple[str, int], ...],
    name: str,
    engines: tuple[str, ...],
    onednn: bool,
) -> dict[str, Any]:
    torch.set_num_threads(1)
    case = next(
        case for case in cases(FAMILIES) if (case.family.name, case.direction) == (family, direction)
    ).shaped(**dict(shape))
    x = case.inputs()
    contestant = next(each for each in case.contestants(engines, onednn, x) if each.name == name)
    short = case.shaped(time=min(case.shape.time, 64)).inputs()
    contestant.timed(contestant.prepare(short), direction == "training")()
    timed = contestant.timed(contestant.prepare(x), direction == "training")
    del short
    _give_back()
    mark = "VmHWM" if _reset() else "ru_maxrss"
    before = _status("VmRSS") if mark == "VmHWM" else _lifetime()
    outcome = timed()
    after = _status("VmHWM") if mark == "VmHWM" else _lifetime()
    del outcome
    return {"bytes": max(after - before, 0), "mark": mark}


def _give_back() -> None:
    """Return freed memory to the kernel, if glibc can; memory that the call reuses would not be counted."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _reset() -> bool:
    try:
        RESET.write_text("5")
    except OSError:
        return False
    return True


def _status(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def _lifetime() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
