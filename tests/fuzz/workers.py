"""Plays calls in processes of their own, so that one that crashes or hangs ends its process and nothing else."""

from __future__ import annotations

import faulthandler
import itertools
import multiprocessing
import queue
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

from tests.fuzz.call import Call
from tests.fuzz.play import Outcome, play

LONGEST = 120
"""Seconds after which a call is taken to hang."""


def _serve(calls: Connection, log: str) -> None:
    import torch

    with open(log, "w") as crashes:
        faulthandler.enable(crashes)
        torch.set_num_threads(1)
        while True:
            calls.send(play(calls.recv()))


class Worker:
    """One process, started anew when it has died."""

    def __init__(self, folder: Path) -> None:
        self.log = tempfile.mkstemp(dir=folder)[1]
        self.process = None

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")  # nothing of a process that has used threads
        self.calls, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.log), daemon=True)
        self.process.start()
        theirs.close()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None

    def play(self, call: Call) -> Outcome:
        """The outcome of a call; that its process died or hung is one too."""
        if self.process is None:
            self.start()
        self.calls.send(call)
        try:
            if self.calls.poll(LONGEST):
                return self.calls.recv()
            kind, words = "hang", f"no answer after {LONGEST} s"
        except (EOFError, ConnectionError):
            self.process.join()
            kind, words = "crash", f"exit code {self.process.exitcode}"
        faulthandler_says = [line.strip() for line in Path(self.log).read_text().splitlines() if line.startswith("  File")]
        self.stop()
        return Outcome(kind, f"{words}: {' < '.join(faulthandler_says[:4])}", call.entry)


class Workers:
    """Some processes: ``with Workers(2) as workers: workers.play(calls)``."""

    def __init__(self, processes: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.all = [Worker(Path(self.folder.name)) for _ in range(processes)]
        self.free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self.all:
            self.free.put(worker)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *failure: object) -> None:
        for worker in self.all:
            worker.stop()
        self.folder.cleanup()

    def play_one(self, call: Call) -> Outcome:
        """The outcome of one call, in the next process that is free."""
        worker = self.free.get()
        try:
            return worker.play(call)
        finally:
            self.free.put(worker)

    def play(self, calls: Iterable[Call]) -> Iterator[tuple[Call, Outcome]]:
        """Every call with its outcome, in order."""
        with ThreadPoolExecutor(len(self.all)) as threads:
            first, second = itertools.tee(calls)
            yield from zip(first, threads.map(self.play_one, second))
