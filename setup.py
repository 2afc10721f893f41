"""Builds the optional native tier: one shared library with a plain C interface, which ttr loads with ctypes
(pyproject.toml has the rest).

Every kernel file is compiled once per instruction set and floating type, ``abi.c`` once. Without a compiler
that takes them, or with TTR_NATIVE=0, the package is built without the library and loses nothing but speed on
CPUs.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import shorten

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

SOURCES = Path("src/ttr/engines/native/csrc")
ONCE = str(SOURCES / "abi.c")  # the rest are kernels
ISAS = {
    "portable": (16, []),
    "avx2": (32, ["-mavx2", "-mfma"]),
    "avx512": (64, ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma"]),
}
"""Instruction set -> bytes of a vector, flags. "portable" is what the compiler takes for granted: SSE2 on
x86-64, NEON on AArch64."""

# Nothing here lets a NaN, an infinity or the order of a sum be ignored.
FLAGS = [
    "-std=c11",
    "-O3",
    "-g0",  # Python's own flags ask for debug information, which is three quarters of the file
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fopenmp-simd",
    "-pthread",
]
MORE = os.environ.get("TTR_CFLAGS", "").split()
"""Further flags of both the compiler, which heeds the last of two that differ, and the linker: how `make
sanitize` builds."""
FAILURES = (BaseError, CCompilerError, OSError)


class BuildKernels(build_ext):
    """Compiles the library where a compiler is there for it, and says why not otherwise."""

    def build_extension(self, ext: Extension) -> None:
        product = Path(self.get_ext_fullpath(ext.name))
        product.unlink(missing_ok=True)
        if os.environ.get("TTR_NATIVE") == "0":
            return self._leave_out("TTR_NATIVE=0 asks for none")
        try:
            objects = self._kernels(ext)
            product.parent.mkdir(parents=True, exist_ok=True)
            self.compiler.link_shared_object(
                objects,
                str(product),
                extra_postargs=["-pthread", "-lm", *MORE],
                build_temp=self.build_temp,
                target_lang="c",
            )
        except FAILURES as failure:
            self._leave_out(failure)

    def _kernels(self, ext: Extension) -> list[str]:
        """The object files for all instruction sets that the compiler knows; "portable" must be among
        them."""
        isas = ["portable", *("avx2", "avx512") * self.plat_name.endswith(("x86_64", "amd64"))]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = {isa: pool.submit(self._for_isa, ext, isa) for isa in isas}
        objects, held = jobs["portable"].result(), []
        for isa in isas[1:]:
            if failure := jobs[isa].exception():
                print(
                    f"ttr: the kernels for {isa} are left out: {shorten(str(failure), 100)}.", file=sys.stderr
                )
            else:
                objects, held = objects + jobs[isa].result(), [*held, isa]
        return objects + self._objects([ONCE], "once", [(f"TTR_HAS_{isa.upper()}", "1") for isa in held], [])

    def _for_isa(self, ext: Extension, isa: str) -> list[str]:
        size, flags = ISAS[isa]
        kernels = [source for source in ext.sources if source != ONCE]
        return [
            path
            for real in ("float", "double")
            for path in self._objects(
                kernels,
                f"{isa}-{real}",
                [("TTR_ISA", isa), ("TTR_REAL", real), ("TTR_VECTOR_BYTES", str(size))],
                flags,
            )
        ]

    def _objects(
        self, sources: list[str], folder: str, macros: list[tuple[str, str]], flags: list[str]
    ) -> list[str]:
        return self.compiler.compile(
            sources, str(Path(self.build_temp, folder)), macros, extra_postargs=FLAGS + flags + MORE
        )

    def _leave_out(self, why: object) -> None:
        self.extensions = self.distribution.ext_modules = []
        print(
            f"ttr: built without its native kernels: {shorten(str(why), 100)}. The package works without "
            "them, slower on CPUs; "
            "to have them, install gcc or clang and install ttr again.",
            file=sys.stderr,
        )

    def get_ext_filename(self, fullname: str) -> str:
        """No tag of a Python in the name: the library knows nothing of Python."""
        return str(Path(*fullname.split("."))) + {"win32": ".dll", "darwin": ".dylib"}.get(
            sys.platform, ".so"
        )

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """None by force: there is no module to initialise."""
        return []


class Wheel(bdist_wheel):
    """Any Python 3; any platform unless the library was built."""

    def run_command(self, command: str) -> None:
        super().run_command(command)
        if command == "build":
            self.root_is_pure = not self.distribution.has_ext_modules()

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        Extension(
            "ttr.engines.native._kernels",
            sorted(map(str, SOURCES.glob("*.c"))),
            depends=sorted(str(path) for kind in ("*.h", "*.inc") for path in SOURCES.glob(kind)),
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel},
)
