"""The checks that must catch a fault, on a copy of the package."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.contract.faults import FAULTS
from tests.mutate.mutants import PACKAGE, Mutant

ROOT = PACKAGE.parents[1]
NATIVE = Path("engines", "native")
SLOW = {"test_laws.py", "test_faults.py", "test_fuzz.py", "test_mutate.py", "test_environments.py"}
"""Test files that run everything; the laws are run in another way."""
LONGEST = 900
"""Seconds after which a check is considered to hang."""
Check = tuple[str, ...]
"""Arguments of a Python; its exit code is 0 if the check passes, 5 if there is nothing to check."""


def checks(file: str) -> list[Check]:
    """For a file of the package, the checks that may catch a fault in it: those of its planted faults, the
    tests that import it, all laws on one problem per class."""
    planted = sorted({fault.words for fault in FAULTS if fault.file == file and fault.words})
    tests, kernel = _tests(file), not file.endswith(".py")
    return [
        *(_laws(words, one_per_class=False) for words in planted),
        *([_pytest(tests)] if tests else []),
        _laws(("native",) if kernel else (), one_per_class=True),
    ]


def _tests(file: str) -> list[Path]:
    """The test files that import a file of the package or are named after it; if none does, those that import
    its folder."""
    *folder, name = ("ttr", *Path(file).with_suffix("").parts)
    own = rf"{'.'.join((*folder, name))}\b|from {'.'.join(folder)} import .*\b{name}\b"
    files = {
        path: path.read_text()
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if path.name not in SLOW
    }
    for pattern in (own, rf"{'.'.join(folder[:3])}\b"):
        found = [
            path
            for path, text in files.items()
            if path.stem.startswith(f"test_{name}") or re.search(pattern, text)
        ]
        if found:
            return found
    return []


def _laws(words: tuple[str, ...], one_per_class: bool) -> Check:
    return "-c", f"from tests.contract.faulty import main; main({list(words)!r}, {one_per_class})"


def _pytest(files: list[Path]) -> Check:
    return (
        "-m",
        "pytest",
        "-x",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        *(str(path.relative_to(ROOT)) for path in files),
    )


def plant(mutant: Mutant | None, folder: Path) -> bool:
    """Write the package, with the fault or unchanged, to ``folder``/ttr; False if it does not compile."""
    shutil.copytree(PACKAGE, folder / "src" / "ttr", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "ttr").symlink_to(folder / "src" / "ttr")
    if mutant is None:
        return True
    (folder / "ttr" / mutant.file).write_text(mutant.text())
    return mutant.python or _compiles(folder)


def _compiles(folder: Path) -> bool:
    """Builds the kernels in ``folder`` again, only for the portable instruction set, which is a third of the
    work."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for library in (folder / "ttr" / NATIVE).glob("_kernels.*"):
        library.unlink()
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--plat-name", "any"],
        cwd=folder,
        capture_output=True,
    )
    return any((folder / "ttr" / NATIVE).glob("_kernels.*"))


def passes(check: Check, folder: Path) -> bool:
    """Whether a check passes on the package in ``folder``."""
    path = os.pathsep.join(map(str, (folder, ROOT)))
    settings = {
        "PYTHONPATH": path,
        "TTR_TEST_TYPES": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        done = subprocess.run(
            [sys.executable, *check],
            cwd=ROOT,
            env=os.environ | settings,
            capture_output=True,
            timeout=LONGEST,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode in (0, 5)


@functools.cache
def sound(check: Check) -> bool:
    """Whether a check passes on the unchanged package."""
    with tempfile.TemporaryDirectory() as folder:
        return plant(None, Path(folder)) and passes(check, Path(folder))


def judge(mutant: Mutant, of_file: list[Check] | None = None) -> dict[str, object]:
    """The mutant as JSON, with its outcome: "caught" (by which check; what hangs is caught), "survived", or
    "invalid"."""
    started, outcome = time.monotonic(), {"outcome": "survived"}
    with tempfile.TemporaryDirectory() as folder:
        if not plant(mutant, Path(folder)):
            outcome = {"outcome": "invalid"}
        else:
            by = next(
                (
                    check
                    for check in of_file or checks(mutant.file)
                    if not passes(check, Path(folder)) and sound(check)
                ),
                None,
            )
            outcome = {"outcome": "survived"} if by is None else {"outcome": "caught", "by": " ".join(by)}
    return asdict(mutant) | {"diff": mutant.diff(), "seconds": round(time.monotonic() - started, 1)} | outcome
