"""The suite catches every planted fault, and nothing on the package as it is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ttr
from tests.contract.faults import FAULTS, Fault

PACKAGE = Path(ttr.__file__).parent
FOLDERS = ("weights", "functions", "functions/features", "solvers", "solvers/losses", "solvers/maps", "backends", "backends/steps")
EMPTY = {f"{folder}/__init__.py" for folder in FOLDERS} | {"backends/backend.py", "weights/uniform.py"} \
    | {"functions/_network.py", "solvers/losses/_loss.py", "solvers/maps/_map.py"}
"""Files in which nothing is computed."""
SCRIPT = Path(__file__).with_name("faulty.py")


def run_checks(source: Path, words: tuple[str, ...]) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, str(SCRIPT), *words], env=environment, capture_output=True, text=True, timeout=900)


def copy_with(fault: Fault | None, folder: Path) -> Path:
    shutil.copytree(PACKAGE, folder / "ttr", ignore=shutil.ignore_patterns("__pycache__"))
    if fault is not None:
        file = folder / "ttr" / fault.file
        text = file.read_text()
        assert text.count(fault.old) == 1, f"{fault.old!r} stands {text.count(fault.old)} times in {fault.file}; mend the table"
        file.write_text(text.replace(fault.old, fault.new))
    return folder


def test_there_are_enough_faults_in_every_part():
    assert len(FAULTS) >= 30
    planted = {fault.file for fault in FAULTS}
    for folder in FOLDERS:
        files = {f"{folder}/{path.name}" for path in (PACKAGE / folder).glob("*.py")} - EMPTY
        assert files <= planted, f"no fault is planted in {sorted(files - planted)}"
    assert {"state.py", "inputs.py", "dispatch.py", "oracle.py", "memorize.py", "retrieve.py"} <= planted


def test_the_checks_pass_without_a_fault(tmp_path):
    result = run_checks(copy_with(None, tmp_path), ("recurrent", "weights=Geometric(),", "OneStep"))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_fault_is_caught(fault, tmp_path):
    result = run_checks(copy_with(fault, tmp_path), fault.words)
    assert result.returncode == 1, f"not caught: {result.stdout}{result.stderr}"
