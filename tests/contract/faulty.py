"""Runs the suite's checks on a copy of the package that may hold a planted fault: ``python faulty.py WORD [WORD...]``.

Only rows whose problem or backend contains every WORD are tried, and the first broken check ends the run with exit code 1.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch._dynamo  # torch.func imports it at its first call; here it is paid once for all forks

WIDE = (torch.float64, torch.float32)


def broken(words: list[str]) -> str | None:
    """The first broken check, in words; None if all are kept."""
    from ttr import registry
    from ttr.backends import BACKENDS
    from ttr.dispatch import regress
    from ttr.laws import LAWS, Setting
    from ttr.laws.rows import refused_triples, triples
    from ttr.laws.tolerances import PARITY, error
    from ttr.oracle import oracle

    for kind in ("weights", "feature", "function", "solver"):
        for cls in registry.members(kind):
            for case in cls.worked():
                call = dict(q=case.q, k=case.k, v=case.v, params=case.params, **case.controls)
                if error(oracle(case.problem, **call), case.y) > PARITY or error(regress(case.problem, **call), case.y) > PARITY:
                    return f"worked case of {cls.__name__}"
    if len(triples()) + len(refused_triples()) == 0:
        return "no triples"
    for problem in triples():
        for backend in BACKENDS:
            if not all(word in f"{backend.name} {problem!r}" for word in words) or backend.refuses(problem) is not None:
                continue
            for law in LAWS:
                if law.slow:
                    continue
                for dtype in WIDE if law.number in (1, 7) else WIDE[:1]:
                    for m in law(problem, Setting(backend.small(), dtype=dtype)):
                        if not m.kept:
                            return f"law {law.number} ({m.law}), {m.quantity}: {m.error:.1e} > {m.bound:.0e}, {backend.name}, {problem!r}"
    files = [str(Path(__file__).parents[1] / name) for name in ("test_worked.py", "test_dispatch.py")]
    return None if pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-W", "ignore", *files]) == 0 else "the tests of worked cases and of calls"


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        found = broken(words)
    except Exception as failure:  # a fault may as well make the package raise
        found = f"{type(failure).__name__}: {failure}"
    print(found or "nothing broken")
    sys.exit(1 if found else 0)


def main_with(source: str, words: list[str], log: str) -> None:
    """``main`` in a process that has imported torch but not ttr: it is imported from ``source``; what is printed goes to a file."""
    sys.path.insert(0, source)
    with open(log, "w") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        main(words)


if __name__ == "__main__":
    main(sys.argv[1:])
