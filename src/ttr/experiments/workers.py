"""Who computes the cells of an experiment: this process, several, or the nodes of a Ray cluster."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch

from ttr.experiments.cells import Cell, Compute, Report, compute_cell, one_thread
from ttr.experiments.errors import UserError


@contextlib.contextmanager
def workers(jobs: int, ray: str | None = None, user_file: Path | None = None) -> Iterator[Compute]:
    """What ``cells.run`` computes with, for as many calls as there are in the block: the Ray cluster at the
    address ``ray``, or without one ``jobs`` processes of one thread each, this one alone if ``jobs`` is 1.

    ``user_file`` is executed by all that compute, so that they know its components.

    Raises:
        UserError: if Ray is not installed, or has no cluster at this address.
    """
    if ray is None and jobs == 1:
        yield _compute
        return
    if ray is None:
        with _processes(jobs, user_file) as compute:
            yield compute
        return
    try:
        from ttr.experiments.ray_cluster import connected
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UserError(
            "Ray is not installed here. Install it with: pip install 'test-time-regression[ray]'"
        ) from None
    with connected(ray, user_file) as compute:
        yield compute


def _compute(cells: Sequence[Cell], folder: Path, report: Report) -> None:
    with one_thread():
        for block in (False, True):  # those that another run computes just now come last
            cells = [cell for cell in cells if not compute_cell(cell, folder, report, block)]


@contextlib.contextmanager
def _processes(jobs: int, user_file: Path | None) -> Iterator[Compute]:
    """Processes that stay for all calls of the block, and are there when it begins."""
    context = multiprocessing.get_context("spawn")
    events, (watched, held) = context.SimpleQueue(), context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(jobs, context, _begin, (events, watched, user_file))
    try:
        wait([pool.submit(time.sleep, 0.1) for _ in range(jobs)])
        yield functools.partial(_in_processes, pool=pool, events=events)
    finally:
        held.close()
        pool.shutdown(wait=False, cancel_futures=True)


def _in_processes(
    cells: Sequence[Cell], folder: Path, report: Report, pool: ProcessPoolExecutor, events: SimpleQueue
) -> None:
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
    return compute_cell(cell, folder, _report, block)
