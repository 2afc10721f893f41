"""Computes cells on the nodes of a Ray cluster. Imported only when one is asked for.

The nodes share no folder with the driver, which is the process that runs the experiment. A cell travels as
data, the files that it reads once each by the hash of their content; what returns are the bytes of the cell's
file, which the driver alone writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import logging
import os
import secrets
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ttr.experiments.cells import Cell, Compute, Report, compute_cell, one_thread, versions
from ttr.experiments.errors import UserError
from ttr.experiments.storage import locked, write
from ttr.experiments.user_file import load_memories

SENT = 500
"""The most cells that are at the cluster or wait there: each holds an open file, its lock, in the driver."""

ATTEMPTS = 4
"""How often a cell is started whose processes or nodes end before it is computed."""

PAUSE = 0.2
"""Seconds between two looks at what the cluster has done."""

PATIENCE = 10.0
"""Seconds in which a cluster must answer, or stop what it is told to."""

TOKEN = secrets.token_hex()
"""What the processes of a Ray that this one starts identify themselves with; Ray would keep one in ~/.ray."""


@contextlib.contextmanager
def connected(address: str, user_file: Path | None) -> Iterator[Compute]:
    """The cluster at an address that ``ray.init`` takes ("local" starts one on this machine for the block),
    or the one that this process is connected to already.

    Raises:
        UserError: if there is none, or it has another version of Ray or Python.
    """
    if ray.is_initialized():
        yield RayCluster(user_file)
        return
    options = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    with contextlib.ExitStack() as stack:
        stack.enter_context(_environment(RAY_USAGE_STATS_ENABLED="0"))
        if address == "local":
            stack.enter_context(_environment(RAY_AUTH_TOKEN=TOKEN))
            folder = tempfile.TemporaryDirectory(prefix="ttr-", ignore_cleanup_errors=True)
            options |= {"include_dashboard": False, "_temp_dir": stack.enter_context(folder)}
        stack.callback(ray.shutdown)
        try:
            _knock(address)
            ray.init(address, **options)
        except (ConnectionError, ImportError, OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(
                f"There is no Ray cluster to use at {address} ({reason}). Start one with `ray start --head` "
                "and use --ray auto, or use --ray local."
            ) from error
        yield RayCluster(user_file)


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Environment variables for the block; after it, all of Ray's are what they were."""
    before = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            del os.environ[name]
        os.environ.update(before)


def _knock(address: str) -> None:
    """Raise an OSError if nobody listens at HOST:PORT, which Ray would find out in minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "//" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()


class RayCluster:
    """Computes cells on the nodes of the cluster that this process is connected to.

    A cell whose process or node ends before it is computed starts again, wherever there is room. One that
    raises an exception raises it here.
    """

    def __init__(self, user_file: Path | None) -> None:
        self._user_file = None if user_file is None else (user_file.name, user_file.read_bytes())
        self._inputs: dict[str, ray.ObjectRef] = {}
        self._numbers = itertools.count()
        self._task = _task(versions())

    @functools.cached_property
    def _reports(self) -> Queue:
        """A queue on the driver's node, which is not lost without the driver."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def __call__(self, cells: Sequence[Cell], folder: Path, report: Report) -> None:
        """Compute cells as ``cells.Compute`` says.

        Raises:
            UserError: if a node has other versions, a cell never came to its end, or a file cannot be
                written.
        """
        _name_unmet(cells, report)
        waiting, lost, running = list(cells), Counter(), {}
        try:
            while waiting or running:
                self._send(waiting, running, folder)
                finished = _finished(running)
                self._pass_on(running, report)
                for result in finished:
                    attempt = running.pop(result)
                    with attempt.lock:
                        try:
                            _keep(ray.get(result), attempt.cell, folder)
                        except RayTaskError as error:
                            raise error.cause from error
                        except RayError as error:
                            lost[attempt.cell.key] += 1
                            if lost[attempt.cell.key] == ATTEMPTS:
                                raise _never_ended(attempt.cell, error) from error
                            words = "its process or node was lost; it starts again"
                            report(attempt.cell.label, -attempt.steps, words)
                            waiting.insert(0, attempt.cell)
        finally:
            for result, attempt in running.items():
                attempt.lock.close()
                ray.cancel(result)
            if running:  # they remove their folders before the connection ends
                ray.wait(list(running), num_returns=len(running), timeout=PATIENCE)

    def _send(self, waiting: list[Cell], running: dict[ray.ObjectRef, _Attempt], folder: Path) -> None:
        """Send cells to the cluster that no other run computes; a cell that one does is looked at again in
        the next call."""
        for cell in list(waiting):
            if len(running) == SENT:
                return
            with contextlib.ExitStack() as lock:
                if not lock.enter_context(locked(cell.file(folder), block=False)):
                    continue
                waiting.remove(cell)
                if cell.file(folder).exists():
                    continue
                number = next(self._numbers)
                task = self._task.options(
                    num_cpus=cell.cpus, num_gpus=cell.gpus, memory=cell.memory or None, max_retries=0
                )
                result = task.remote(
                    dataclasses.asdict(cell),
                    {sha256: self._input(sha256, folder) for sha256 in cell.inputs},
                    self._user_file,
                    number,
                    self._reports,
                )
                running[result] = _Attempt(cell, lock.pop_all(), number)

    def _input(self, sha256: str, folder: Path) -> ray.ObjectRef:
        if sha256 not in self._inputs:
            self._inputs[sha256] = ray.put((folder / "inputs" / sha256).read_bytes())
        return self._inputs[sha256]

    def _pass_on(self, running: Mapping[ray.ObjectRef, _Attempt], report: Report) -> None:
        """Pass on what the cells have reported; what a lost attempt did is forgotten."""
        attempts = {attempt.number: attempt for attempt in running.values()}
        for number, (label, steps, *words) in self._reports.get_nowait_batch(self._reports.qsize()):
            if number in attempts:
                attempts[number].steps += steps
                report(label, steps, *words)


@dataclass
class _Attempt:
    """A cell at the cluster, the lock on its file, and the steps that it has reported."""

    cell: Cell
    lock: contextlib.ExitStack
    number: int
    steps: int = 0


def _finished(running: Mapping[ray.ObjectRef, _Attempt]) -> list[ray.ObjectRef]:
    if not running:
        time.sleep(PAUSE)
        return []
    return ray.wait(list(running), timeout=PAUSE)[0]


def _keep(result: bytes | tuple[str, dict[str, str]], cell: Cell, folder: Path) -> None:
    if not isinstance(result, bytes):
        node, found = result
        raise UserError(
            f"The node {node} has {_in_words(found)}; this process has {_in_words(versions())}. Install the "
            "same versions on all nodes; finished cells are kept."
        )
    write(cell.file(folder), result)
    cell.checkpoint(folder).unlink(missing_ok=True)


def _in_words(versions: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {version}" if version else f"no {name}" for name, version in versions.items())


def _never_ended(cell: Cell, error: RayError) -> UserError:
    return UserError(
        f"{cell.label} was started {ATTEMPTS} times, and its process or node ended each time "
        f"({type(error).__name__}); perhaps the memory did not suffice. Use larger nodes; the same command "
        "continues from here."
    )


def _name_unmet(cells: Sequence[Cell], report: Report) -> None:
    """Report needs that no node meets: Ray waits for one that does."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    first = {(cell.cpus, cell.gpus, cell.memory): cell for cell in reversed(cells)}
    for (cpus, gpus, memory), cell in first.items():
        needs = {"CPU": cpus, "GPU": gpus, "memory": memory}
        if not any(all(node.get(name, 0) >= need for name, need in needs.items()) for node in nodes):
            words = ", ".join(f"{name} {need:g}" for name, need in needs.items() if need)
            report(cell.label, 0, f"waits for a node that has {words}", True)


def _task(wanted: Mapping[str, str]) -> Any:
    """What a node calls. Ray sends it as code, since it refers to nothing of ttr, so that a node with another
    ttr, or with none, says so."""

    @ray.remote
    def on_a_node(*arguments):
        import importlib
        import platform

        found = {"ttr": None, "torch": None, "python": platform.python_version()}
        for name in ("ttr", "torch"):
            with contextlib.suppress(ImportError):
                found[name] = str(importlib.import_module(name).__version__)
        if found != wanted:
            return socket.gethostname(), found
        from ttr.experiments.ray_cluster import compute_there

        return compute_there(*arguments)

    return on_a_node


def compute_there(
    fields: Mapping[str, Any],
    inputs: Mapping[str, ray.ObjectRef],
    user_file: tuple[str, bytes] | None,
    number: int,
    reports: Queue,
) -> bytes:
    """On a node: the bytes of the file of the cell with these fields, computed in a folder of its own.

    Raises:
        UserError: if an input is not what its hash says.
    """
    if user_file is not None:
        _load(*user_file)
    with tempfile.TemporaryDirectory(prefix="ttr-") as name, one_thread():
        folder, cell = Path(name), Cell(**fields)
        (folder / "inputs").mkdir()
        for sha256, content in inputs.items():
            content = ray.get(content)
            if hashlib.sha256(content).hexdigest() != sha256:
                raise UserError(
                    f"The file inputs/{sha256} of the experiment's folder is damaged. Delete it and repeat "
                    "the command; finished cells are kept."
                )
            (folder / "inputs" / sha256).write_bytes(content)
        compute_cell(cell, folder, lambda *report: reports.put((number, report)), block=True)
        return cell.file(folder).read_bytes()


@functools.cache
def _load(name: str, content: bytes) -> None:
    """Execute a user's file, once in a process."""
    with tempfile.TemporaryDirectory(prefix="ttr-") as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        load_memories(path)
