"""Cells: calls of pure functions, each computed once, kept in a file of its own, and the same to the bit
wherever it is computed.

An experiment is a list of cells. A cell that has its file is not computed again, so a run that was killed at
any moment continues where it was; several processes, of one run or of several, share a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import multiprocessing
import os
import platform
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttr._version import __version__
from ttr.experiments.errors import UserError
from ttr.experiments.storage import load_tensors, locked, save_tensors

Result = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and JSON-ready facts."""

Report = Callable[..., None]
"""(label of the cell, steps done since the last report, what it does now, whether these are its last
words)"""


@dataclass(frozen=True)
class Cell:
    """One call, as data.

    Args:
        function: "module:name" of a function (arguments, folder, checkpoint, report) -> Result. It may read
            files of the folder that are named by the hash of their content, and resume from ``checkpoint``.
        arguments: JSON-ready; with the function and the versions they are the cell's key.
        label: what people call it; the start of the file's name.
        steps: how long it takes, in units of progress.
    """

    function: str
    arguments: Mapping[str, Any]
    label: str
    steps: int

    @property
    def key(self) -> str:
        """The hash of all that decides the result."""
        versions = {"ttr": __version__, "torch": torch.__version__, "python": platform.python_version()}
        content = json.dumps([self.function, self.arguments, versions], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def file(self, folder: Path) -> Path:
        return folder / f"{self.label}.{self.key[:16]}.safetensors"

    def checkpoint(self, folder: Path) -> Path:
        return folder / f"{self.label}.{self.key[:16]}.checkpoint.safetensors"

    def load(self, folder: Path) -> Result | None:
        """What was computed, None if it was not.

        Raises:
            UserError: naming the file, if it is damaged or holds another cell.
        """
        path = self.file(folder)
        if not path.exists():
            return None
        tensors, facts = load_tensors(path)
        if facts.get("key") != self.key:
            raise UserError(
                f"{path} belongs to another run. Delete it to compute it again; the others are kept."
            )
        return tensors, facts["facts"]


def run(
    cells: Sequence[Cell], folder: Path, jobs: int, report: Report, user_file: Path | None = None
) -> list[Result]:
    """The results of all cells in their order, those that are missing computed first, by ``jobs`` processes
    of one thread each, or in this one if ``jobs`` is 1.

    ``user_file`` is executed in the other processes, so that they know its components.

    Raises:
        UserError: if a file is damaged or cannot be written.
        KeyboardInterrupt: with all processes stopped; finished cells and checkpoints are kept.
    """
    missing = []
    for cell in cells:
        if cell.load(folder) is None:
            missing.append(cell)
        else:
            report(cell.label, cell.steps, "computed before")
    if jobs == 1 or len(missing) < 2:
        with one_thread():
            for block in (False, True):  # those that another run computes just now come last
                missing = [cell for cell in missing if not _compute(cell, folder, report, block)]
    else:
        _in_processes(missing, folder, jobs, report, user_file)
    return [cell.load(folder) for cell in cells]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch in one thread: sums of several are added in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _compute(cell: Cell, folder: Path, report: Report, block: bool) -> bool:
    """Compute a cell unless its file is there; False if another process is at it and this one is not to
    ``block``."""
    with locked(cell.file(folder), block) as mine:
        if not mine:
            return False
        if not cell.file(folder).exists():
            module, _, name = cell.function.partition(":")
            function = getattr(importlib.import_module(module), name)
            tensors, facts = function(cell.arguments, folder, cell.checkpoint(folder), report)
            save_tensors(cell.file(folder), tensors, {"key": cell.key, "facts": facts})
            cell.checkpoint(folder).unlink(missing_ok=True)
    return True


def _in_processes(
    cells: Sequence[Cell], folder: Path, jobs: int, report: Report, user_file: Path | None
) -> None:
    context = multiprocessing.get_context("spawn")
    events, (watched, held) = context.SimpleQueue(), context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(jobs, context, _begin, (events, watched, user_file))
    try:
        running = {pool.submit(_compute_there, cell, folder, False): cell for cell in cells}
        while running:
            finished, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            while not events.empty():
                report(*events.get())
            for future in finished:
                cell = running.pop(future)
                if not future.result():  # another run computes it; wait for that after all others
                    running[pool.submit(_compute_there, cell, folder, True)] = cell
        while not events.empty():
            report(*events.get())
    except BrokenProcessPool:
        raise UserError(
            "A process ended before its cell was computed; perhaps the memory did not suffice. Use fewer "
            "--jobs; the same command continues from here."
        ) from None
    finally:
        held.close()
        pool.shutdown(wait=False, cancel_futures=True)


_report: Report
"""In a process of the pool: puts a report into the queue of the one that started it."""


def _begin(events: SimpleQueue, watched: Connection, user_file: Path | None) -> None:
    """Prepare a process of the pool. It ends when the other end of ``watched`` is closed, which a process
    does that stops its pool, and one that is killed."""
    global _report
    _report = lambda *report: events.put(report)  # noqa: E731
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the whole group gets: the first process sees to it

    def watch() -> None:
        watched.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if user_file is not None:
        from ttr.experiments.user_file import load_memories

        load_memories(user_file)


def _compute_there(cell: Cell, folder: Path, block: bool) -> bool:
    return _compute(cell, folder, _report, block)
