"""`make sanitize`: the kernels of every instruction set of this machine, checked by the compiler's
sanitizers.

Calls of the laws and of the kernels' tests are recorded, and made again by replay.c: with the library as it
is, bit for bit, and with libraries built for the sanitizers. Then the laws run in Python on the library that
watches addresses, which sees what the callers do. Nothing is suppressed: any fault ends the run with its
report.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import ttr
from tests.sanitize.recorder import recording
from ttr.dispatch import refusal
from ttr.engines import ENGINES
from ttr.engines.native import library
from ttr.laws import LAWS, Setting

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "sanitize"
CSRC = ROOT / "src" / "ttr" / "engines" / "native" / "csrc"
COMPILER = os.environ.get("CC", "cc")

FLAGS = {
    "address": (
        "-g1 -O0 -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all -fno-wrapv"
    ),
    "thread": "-g1 -O1 -fsanitize=thread",
}
"""Compiler flags of the library and of the program that calls it. Python's own flags define signed overflow;
-fno-wrapv reverts that."""

WATCH = {
    "ASAN_OPTIONS": "detect_leaks=0:malloc_fill_byte=255:max_malloc_fill_size=1000000000",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}
"""Leaks are Python's; uninitialised memory contains NaN."""

CALLING = ("native", "native-scan", "local-polynomial")
"""The engines whose laws call kernels; the tests call the others."""

TESTS = [
    str(ROOT / f"tests/test_{name}.py")
    for name in (
        "native",
        "native_scan",
        "local_linear",
        "local_quadratic",
        "dual_form",
        "chebyshev",
        "ridge",
        "short_convolution",
        "decode",
        "recording",
        "planned_step",
    )
]
RECORDINGS = ("laws", "tests")


def build(kind: str) -> Path:
    """The library for the sanitizers of ``FLAGS``, rebuilt if a source is newer."""
    folder = FOLDER / kind
    product = folder / "ttr" / "engines" / "native" / library.FILE
    sources = (ROOT / "setup.py", Path(__file__), *CSRC.iterdir())
    if not product.exists() or product.stat().st_mtime < max(path.stat().st_mtime for path in sources):
        folders = ["--build-lib", folder, "--build-temp", folder / "objects"]
        subprocess.run(
            [sys.executable, "setup.py", "--quiet", "build_ext", *folders],
            cwd=ROOT,
            check=True,
            env=os.environ | {"TTR_CFLAGS": FLAGS[kind]},
        )
    assert product.exists(), f"{COMPILER} does not take {FLAGS[kind]}."
    return product


def replayer(name: str, flags: str) -> Path:
    """The program that repeats recorded calls."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    program, source = FOLDER / f"replay-{name}", Path(__file__).with_name("replay.c")
    command = [COMPILER, "-std=c11", *flags.split(), source, "-o", program, "-rdynamic", "-pthread", "-ldl"]
    subprocess.run(command, check=True)
    return program


def replay(program: Path, at: Path, recorded: Path, *words: str, **environment: str) -> None:
    """Raises:
    subprocess.CalledProcessError: if a sanitizer or the comparison found anything; the report is printed.
    """
    start = time.monotonic()
    subprocess.run([program, at, recorded, *words], env=os.environ | WATCH | environment, check=True)
    print(f"  {program.name}, {recorded.name}: silent, {time.monotonic() - start:.0f} s", flush=True)


def laws(*dtypes: torch.dtype) -> None:
    """All quick laws on the named layers, by the engines that call kernels."""
    engines = [engine for engine in ENGINES if engine.name in CALLING]
    rows = [
        (problem, engine)
        for problem in (ttr.catalogue[name].problem for name in ttr.catalogue)
        for engine in engines
        if refusal(engine, problem) is None
    ]
    for problem, engine in rows:
        for law, dtype in ((law, dtype) for law in LAWS if not law.slow for dtype in dtypes):
            broken = [m for m in law(problem, Setting(engine.small(), dtype=dtype)) if not m.passed]
            assert not broken, f"{engine.name}, {problem}: {broken}"


def record(what: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with recording(FOLDER / f"{what}.calls") as recorder:
        if what == "laws":
            laws(torch.float32, torch.float64)
        else:
            options = ["-n", "0", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
            assert pytest.main([*options, *TESTS]) == 0, "The tests of the kernels fail."
            reached = {name.split()[0] for name in recorder.calls}
            assert reached == {*library.KERNELS}, f"No test calls {sorted({*library.KERNELS} - reached)}."
    print(
        f"  recorded {sum(recorder.calls.values())} calls of the {what}: {dict(recorder.calls)}", flush=True
    )


def in_python(words: list[str], environments: list[dict[str, str]]) -> None:
    """Run this module with these arguments, once for every environment, in parallel."""
    command = [sys.executable, "-m", "tests.sanitize", *words]
    running = [subprocess.Popen(command, cwd=ROOT, env=os.environ | own) for own in environments]
    assert not any([process.wait() for process in running]), f"Failed: {' '.join(words)}."


def runtime(name: str) -> str:
    """The path of a library of the compiler."""
    return subprocess.run(
        [COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> None:
    for what in RECORDINGS:
        in_python(["record", what], [{}])
    plain, few = replayer("plain", "-O1"), replayer("few-threads", "-O1 -DFEW_THREADS")
    recordings = [FOLDER / f"{what}.calls" for what in RECORDINGS]
    for recorded in recordings:
        # scratch memory is filled with 0xfe
        replay(plain, library.library().path, recorded, "exact", MALLOC_PERTURB_="1")
        replay(few, library.library().path, recorded, "exact")
    for kind, flags in FLAGS.items():
        program, at = replayer(kind, flags), build(kind)
        for recorded in recordings:
            replay(program, at, recorded)
    preloaded = f"{runtime('libasan.so')} {runtime('libstdc++.so')}"  # loaded before Python's own
    watched = WATCH | {"LD_PRELOAD": preloaded, "TTR_NATIVE_LIBRARY": str(build("address"))}
    in_python(["laws"], [watched | {"TTR_NATIVE_ISA": isa} for isa in library.library().runs])
    print(f"Nothing found on {', '.join(library.library().runs)}.")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if why := library.reason() or (
        None if sys.platform == "linux" else ("The sanitizers are called as on Linux.")
    ):
        print(f"Left out: {why}")
    elif sys.argv[1:2] == ["record"]:
        record(sys.argv[2])
    elif sys.argv[1:] == ["laws"]:
        laws(torch.float32)
    else:
        main()
