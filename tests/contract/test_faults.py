"""The laws, on the rows of `make test`, and the tests catch every planted fault, and pass on the unchanged
package."""

import atexit
import compileall
import functools
import multiprocessing
import py_compile
import shutil
import tempfile
from multiprocessing import forkserver
from pathlib import Path

import pytest

import ttr
from tests.contract import faulty
from tests.contract.faults import FAULTS, Fault
from tests.contract.rows import checks, rows
from ttr.engines.native import library

PACKAGE = Path(ttr.__file__).parent
FOLDERS = (
    "weights",
    "functions",
    "functions/features",
    "solvers",
    "solvers/losses",
    "solvers/maps",
    "forms",
    "engines",
    "engines/torch",
    "engines/torch/steps",
    "engines/torch/linear",
    "engines/torch/ridge",
    "engines/torch/dual_form",
    "engines/native",
    "operators",
)
EMPTY = (
    {f"{folder}/__init__.py" for folder in FOLDERS}
    | {"engines/engine.py", "forms/linear_recurrence.py", "forms/landmarks.py", "weights/uniform.py"}
    | {"functions/_network.py", "solvers/losses/_loss.py", "solvers/maps/_map.py"}
    | {"engines/torch/superblock.py", "engines/native/engine.py"}
)
"""Files without computations."""
SLOW = ("models/", "integrations/", "experiments/", "distributed/")
"""Packages whose tests import transformers or start processes, for every fault anew."""
QUICK = [fault for fault in FAULTS if not fault.file.startswith(SLOW)]
FIRST = {fault.file.rpartition("/")[0]: fault for fault in reversed(QUICK)}.values()
"""One fault of each folder, for every run; the others belong to `make check`."""
# forks of a process that has imported torch, since the import takes longer than most checks
FORKS = multiprocessing.get_context("forkserver")
PRELOAD = ["tests.contract.faulty"]


def run_checks(folder: Path, words: tuple[str, ...], one_per_class: bool = False) -> tuple[int, str]:
    """Run the checks on the package in ``folder``; return their exit code and output.

    With ``one_per_class`` all laws are tried on the first row of each class."""
    log = folder / "log"
    # the fork server may have been started with ttr itself imported
    if forkserver._forkserver._preload_modules != PRELOAD:
        forkserver._forkserver._stop()
        FORKS.set_forkserver_preload(PRELOAD)
    arguments = (str(folder), list(words), str(log), one_per_class, None if one_per_class else tried_laws())
    process = FORKS.Process(target=faulty.main_with, args=arguments)
    process.start()
    process.join(900)
    process.kill()
    process.join()
    return process.exitcode, log.read_text()


@functools.cache
def tried_laws() -> dict[str, set[int]]:
    """For every row, the numbers of the laws that `make test` checks."""
    return {
        f"{engine.name} {problem!r}": {law.number for law, _ in checks((problem, engine), full=False)}
        for problem, engine in rows()
    }


@functools.cache
def compiled() -> Path:
    """A copy of the package with its bytecode, so that copies with a fault compile only one module."""
    kept = tempfile.TemporaryDirectory()
    atexit.register(kept.cleanup)
    folder = Path(kept.name)
    shutil.copytree(PACKAGE, folder / "ttr", ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(folder, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    return folder / "ttr"


def copy_with(fault: Fault | None, folder: Path) -> Path:
    shutil.copytree(compiled(), folder / "ttr")
    if fault is not None:
        file = folder / "ttr" / fault.file
        file.write_text(fault.planted(file.read_text()))
    return folder


def test_every_fault_can_be_planted():
    for fault in FAULTS:
        fault.planted((PACKAGE / fault.file).read_text())


def test_there_are_enough_faults_in_every_part():
    assert len(FAULTS) >= 30
    planted = {fault.file for fault in FAULTS}
    for folder in FOLDERS:
        files = {f"{folder}/{path.name}" for path in (PACKAGE / folder).glob("*.py")} - EMPTY
        assert files <= planted, f"no fault is planted in {sorted(files - planted)}"
    assert {
        "state.py",
        "axes.py",
        "inputs.py",
        "dispatch.py",
        "oracle.py",
        "memorize.py",
        "retrieve.py",
    } <= planted


def test_the_checks_pass_without_a_fault(tmp_path):
    code, printed = run_checks(copy_with(None, tmp_path), ("recurrent", "weights=Geometric(),", "OneStep"))
    assert code == 0, printed


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=str(fault), marks=() if fault in FIRST else pytest.mark.full)
        for fault in FAULTS
    ],
)
def test_fault_is_caught(fault, tmp_path):
    if fault.file.startswith("engines/native/") and not library.available():
        pytest.skip(library.reason())
    code, printed = run_checks(copy_with(fault, tmp_path), fault.words)
    assert code == 1, f"not caught: {printed}"
