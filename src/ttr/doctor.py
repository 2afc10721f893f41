"""``ttr doctor``: what ttr can use on this machine, and whether every engine is correct on it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from ttr import matmul
from ttr.dispatch import refusal, regress
from ttr.engines import ENGINES
from ttr.engines.native import library
from ttr.extras import EXTRAS
from ttr.laws.rows import Sizes, make_case, triples
from ttr.laws.tolerances import error, tolerance
from ttr.oracle import oracle


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis; ``mark`` is "ok", "note" or "wrong"."""

    mark: Literal["ok", "note", "wrong"]
    subject: str
    words: str


def examine() -> Iterator[Finding]:
    """The findings: versions, devices, extras, known problems, and every engine against the oracle."""
    yield Finding("ok", "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("ok", "torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    yield _native()
    yield from _extras()
    yield from _products()
    yield from _traps()
    for device in devices():
        for dtype in (torch.float64, torch.float32) if device != "mps" else (torch.float32,):
            yield from _engines(device, dtype)


def devices() -> list[str]:
    """The devices torch can use here."""
    return ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()


def _native() -> Finding:
    """Which compiled kernels are available, or why there are none."""
    if not library.available():
        return Finding(
            "note",
            "native kernels",
            f"{library.reason()} Everything runs in torch's operations instead.",
        )
    found = library.library()
    others = [isa for isa in library.ISAS if isa not in found.runs]
    words = f"{found.isa}, of {', '.join(found.runs)} that run here; version {library.ABI}; {found.path}"
    return Finding(
        "ok",
        "native kernels",
        (f"{words}. Not built, or not supported by this processor: {', '.join(others)}.")
        if others
        else words,
    )


def _extras() -> Iterator[Finding]:
    for extra, packages in EXTRAS.items():
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if missing:
            yield Finding(
                "note",
                f"extra [{extra}]",
                f"lacks {', '.join(missing)}. Install them with pip install 'test-time-regression[{extra}]'.",
            )
        else:
            yield Finding(
                "ok",
                f"extra [{extra}]",
                ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages),
            )


def _products() -> Iterator[Finding]:
    reason = matmul.refuses()
    yield Finding(
        "note" if reason else "ok",
        "float32 products",
        reason or ("with ttr.onednn(): runs those on the CPU through oneDNN"),
    )


def _traps() -> Iterator[Finding]:
    if importlib.util.find_spec("fla") is not None and not torch.cuda.is_available():
        yield Finding(
            "note",
            "flash-linear-attention",
            "is installed beside a torch without a GPU: ttr "
            "does not use it, but transformers' own "
            "Gated DeltaNet models call its kernels here and fail. Keep it in another environment "
            "if you need them.",
        )


def _engines(device: str, dtype: torch.dtype) -> Iterator[Finding]:
    """Every engine against the oracle on all example problems that it runs, on sequences longer than its
    blocks."""
    for engine in (engine for engine in ENGINES if engine.missing() is None):
        errors = {}
        for problem in triples():
            if refusal(engine, problem) is None:
                case = make_case(problem, Sizes(time=7), dtype=dtype, device=device)
                y = regress(problem, engine=engine.small(), **case.arguments())
                errors[problem] = error(
                    y.cpu(), oracle(problem, **make_case(problem, Sizes(time=7), dtype=dtype).arguments())
                )
        worst = max(errors, key=errors.__getitem__)
        good = errors[worst] <= tolerance(dtype)
        words = (
            f"{len(errors)} problems, largest error against the oracle {errors[worst]:.1e} (allowed "
            f"{tolerance(dtype):.0e})"
        )
        yield Finding(
            "ok" if good else "wrong",
            f"{engine.name}, {device}, {str(dtype)[6:]}",
            words if good else f"{words} in {worst!r}",
        )
