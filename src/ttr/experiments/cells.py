"""Cells: calls of pure functions, each computed once, kept in a file of its own, and the same to the bit
wherever it is computed.

An experiment is a list of cells. A cell that has its file is not computed again, so a run that was killed at
any moment continues where it was; several processes, of one run or of several, share a folder. Who computes
them stands in workers.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
            the files ``inputs`` of the folder, and resume from ``checkpoint``.
        arguments: JSON-ready; with the function and the versions they are the cell's key.
        label: what people call it; the start of the file's name.
        steps: how long it takes, in units of progress.
        inputs: the files that the function reads, folder/inputs/HASH by the SHA-256 of their content; the
            arguments name them too.
        cpus, gpus, memory: processor cores, GPUs and bytes that a node of a cluster must have free for it.
    """

    function: str
    arguments: Mapping[str, Any]
    label: str
    steps: int
    inputs: tuple[str, ...] = ()
    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0

    @property
    def key(self) -> str:
        """The hash of all that decides the result."""
        content = json.dumps([self.function, self.arguments, versions()], sort_keys=True)
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


Compute = Callable[[Sequence[Cell], Path, Report], None]
"""Computes cells that have no file in a folder yet; then they have."""


def run(cells: Sequence[Cell], folder: Path, compute: Compute, report: Report) -> list[Result]:
    """The results of all cells in their order; ``compute``, which ``workers`` provides, is called for those
    that are missing.

    Raises:
        UserError: if a file is damaged or cannot be written.
        KeyboardInterrupt: with all that was started stopped; finished cells are kept.
    """
    missing = []
    for cell in cells:
        if cell.load(folder) is None:
            missing.append(cell)
        else:
            report(cell.label, cell.steps, "computed before")
    if missing:
        compute(missing, folder, report)
    return [cell.load(folder) for cell in cells]


def versions() -> dict[str, str]:
    """The versions that decide a result."""
    return {"ttr": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch in one thread: sums of several are added in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def compute_cell(cell: Cell, folder: Path, report: Report, block: bool) -> bool:
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
            for path in folder.glob(f"{cell.label}.{cell.key[:16]}.*checkpoint.safetensors"):
                path.unlink()
    return True
