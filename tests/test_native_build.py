"""The library of compiled kernels: what it reports, how it is switched off, and the reasons why it is
missing."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ttr
from ttr.engines.native import library
from ttr.laws.rows import make_case

built = pytest.mark.skipif(not library.available(), reason=library.reason() or "")


@pytest.fixture
def reload(monkeypatch):
    """Reload the environment and the library, and again when the test is over."""

    def again(**environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        library._load.cache_clear()
        library.function.cache_clear()

    yield again
    monkeypatch.undo()
    again()


def in_fresh_python(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(Path(ttr.__file__).parents[1])} | environment,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_ttr_loads_no_library():
    assert (
        in_fresh_python(
            "import ttr; from ttr.engines.native import library; print(library._load.cache_info().currsize)"
        )
        == "0"
    )


def test_switched_off_by_the_environment():
    code = "from ttr.engines.native import library; print(library.available(), library.reason())"
    assert in_fresh_python(code, TTR_NATIVE="0") == (
        "False The native kernels are switched off by TTR_NATIVE=0. Unset it to use them."
    )


@built
def test_every_instruction_set_has_every_type(reload):
    assert library.library().runs[-1] == "portable"
    for isa in library.library().runs:
        reload(TTR_NATIVE_ISA=isa)
        assert library.library().isa == isa
        assert library.function("step", torch.float32).__name__ == f"ttr_step_{isa}_float"
        assert library.function("step", torch.float64).__name__ == f"ttr_step_{isa}_double"


@built
def test_an_instruction_set_that_does_not_run_is_a_sentence(reload):
    reload(TTR_NATIVE_ISA="quantum")
    assert not library.available()
    assert "'quantum', which TTR_NATIVE_ISA asks for, do not run here. Unset it, or use" in library.reason()
    with pytest.raises(RuntimeError, match="Unset it"):
        library.library()


def put(folder: Path, source: str) -> None:
    """Install a library compiled from ``source`` in place of the kernels."""
    command = [
        os.environ.get("CC", "cc"),
        "-shared",
        "-fPIC",
        "-x",
        "c",
        "-",
        "-o",
        str(folder / library.FILE),
    ]
    subprocess.run(command, input=source, text=True, check=True)


VERSION = f"int ttr_abi(void) {{ return {library.ABI}; }}"


@pytest.mark.parametrize(
    "source, words",
    [
        (None, "were not built when ttr was installed"),
        ("another file", "were not built when ttr was installed"),
        ("int ttr_abi(void) { return 999; }", "are of version 999, and this ttr calls version"),
        ("int other(void) { return 1; }", "cannot be loaded"),
        ("text", "cannot be loaded"),
        ("folder", "cannot be loaded"),
        (VERSION, "cannot be loaded"),
        (VERSION + "int ttr_runs(char *isa) { return 0; }", "are for other processors than this"),
        (VERSION + "int ttr_runs(char *isa) { return *isa == 'p'; }", "cannot be loaded"),
    ],
    ids=[
        "none",
        "another file",
        "another version",
        "no version",
        "text",
        "folder",
        "no instruction sets",
        "other instruction sets",
        "no kernels",
    ],
)
def test_a_library_that_does_not_fit_is_a_sentence(reload, monkeypatch, tmp_path, source, words):
    if source == "another file":
        (tmp_path / "_kernels.old").write_text("of another system, or put aside")
    elif source == "text":
        (tmp_path / library.FILE).write_text("no library")
    elif source == "folder":
        (tmp_path / library.FILE).mkdir()
    elif source and shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("There is no C compiler here to make such a library with.")
    elif source:
        put(tmp_path, source)
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    reload()
    assert not library.available()
    assert words in library.reason() and library.reason().endswith(library.INSTALL)
    case = make_case(ttr.catalogue["gated-deltanet"].problem)
    assert ttr.explain(case.problem, **case.arguments()).engine != "native"
    assert ttr.regress(case.problem, **case.arguments()).isfinite().all()


@built
def test_the_library_has_no_debug_information():
    assert b".debug_info" not in library.library().path.read_bytes()


@built
@pytest.mark.parametrize(
    "length",
    [
        100,
        500_000,
        None,
        *(pytest.param(length, marks=pytest.mark.full) for length in (0, 5000, 100_000, 1_000_000)),
    ],
)
def test_a_truncated_library_is_a_sentence(tmp_path, length):
    """The loaded segments of the whole library take 2 MB; what follows them is not needed."""
    (tmp_path / library.FILE).write_bytes(library.library().path.read_bytes()[:length])
    code = f"""from ttr.engines.native import library
library.__file__ = {str(tmp_path / "library.py")!r}
print(library.reason())"""
    found = in_fresh_python(code)
    assert (
        found == "None" if length is None else "cannot be loaded" in found and found.endswith(library.INSTALL)
    )


@built
def test_another_library_can_be_named(reload, tmp_path):
    other = shutil.copy(library.library().path, tmp_path / "other.so")
    reload(TTR_NATIVE_LIBRARY=str(other))
    assert library.library().path == Path(other)
    reload(TTR_NATIVE_LIBRARY=str(tmp_path / "none.so"))
    assert not library.available() and "Unset TTR_NATIVE_LIBRARY" in library.reason()


def test_the_doctor_says_which_kernels_run(reload):
    from ttr import doctor

    finding = doctor._native()
    if library.available():
        assert (
            finding.mark == "ok"
            and str(library.library().path) in finding.words
            and finding.words.startswith(library.library().isa)
        )
    reload(TTR_NATIVE="0")
    finding = doctor._native()
    assert finding.mark == "note" and "TTR_NATIVE=0" in finding.words


@built
def test_the_struct_is_that_of_the_kernel():
    """A layout with null tensors and sizes of 0 does nothing; with one thread and one row of scratch it shows
    that the sizes are read."""
    from ttr.engines.native.step import TENSORS, Token, kernel

    assert TENSORS.size == Token.strides.offset
    assert kernel(torch.float32)(bytes(TENSORS.size), ctypes.byref(Token(threads=1))) == 0
