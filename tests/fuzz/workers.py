"""Runs calls in separate processes, so that one that crashes or hangs ends only its process."""

from __future__ import annotations

import faulthandler
import itertools
import multiprocessing
import queue
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from tests.fuzz.call import Call
from tests.fuzz.play import Outcome, play

FORKS = multiprocessing.get_context(
    "forkserver"
)  # forks of a process that has imported everything and run nothing


def _serve(calls: Connection, log: str, play: Callable[[Call], Outcome]) -> None:
    with open(log, "w") as crashes:
        faulthandler.enable(crashes)
        torch.set_num_threads(1)
        calls.send(None)
        while True:
            calls.send(play(calls.recv()))


class Worker:
    """One process, which is restarted when it has died."""

    def __init__(self, folder: Path, play: Callable[[Call], Outcome], longest: float) -> None:
        self.play_there, self.longest = play, longest
        self.log = tempfile.mkstemp(dir=folder)[1]
        self.process = None

    def start(self) -> None:
        self.calls, theirs = FORKS.Pipe()
        self.process = FORKS.Process(target=_serve, args=(theirs, self.log, self.play_there), daemon=True)
        self.process.start()
        theirs.close()
        self.calls.recv()  # a new process needs seconds until it can run calls

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None

    def play(self, call: Call) -> Outcome:
        """The outcome of a call, which may be that its process died or hung."""
        if self.process is None:
            self.start()
        self.calls.send(call)
        try:
            if self.calls.poll(self.longest):
                return self.calls.recv()
            kind, words = "hang", f"no answer after {self.longest} s"
        except (EOFError, ConnectionError):
            self.process.join()
            kind, words = "crash", f"exit code {self.process.exitcode}"
        frames = [
            line.strip() for line in Path(self.log).read_text().splitlines() if line.startswith("  File")
        ]
        self.stop()
        return Outcome(kind, f"{words}: {' < '.join(frames[:4])}", call.entry)


class Workers:
    """A pool of processes: ``with Workers(2) as workers: workers.play(calls)``. ``longest``: seconds after
    which a call is considered to hang."""

    def __init__(self, processes: int, play: Callable[[Call], Outcome] = play, longest: float = 120) -> None:
        FORKS.set_forkserver_preload([__name__])
        self.folder = tempfile.TemporaryDirectory()
        self.all = [Worker(Path(self.folder.name), play, longest) for _ in range(processes)]
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
        """The outcome of one call, in the next free process."""
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
