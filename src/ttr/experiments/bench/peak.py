"""How much memory a call takes beside its inputs, measured in a process of its own that is made fresh for it.

The process is forked from one that holds torch and ttr but has run nothing, so no memory that an earlier call
has freed can be used again. A short call first brings in libraries and buffers that stay, and what was freed
since is given back to the kernel. Then, on Linux, the mark of the most memory the process has held (VmHWM) is
set back, and read again after the call; where that is not allowed, the mark of its whole life (ru_maxrss)
serves, which is too low by what was taken and given back before.
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
    """A context in which peaks can be measured: it holds the process that the others are forked from."""

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
        """Bytes over the inputs ("bytes") and the mark they were read from ("mark"); None if the process was
        killed, for want of memory."""
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
    """Return freed memory to the kernel, where glibc can; what the call reuses of it would not be counted."""
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
