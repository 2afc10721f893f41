"""Runs the suite's checks on a copy of the package that may contain a planted fault: ``python faulty.py WORD
[WORD...]``.

Only rows whose problem or engine contains every WORD are tried, and the first broken check ends the run with
exit code 1. On the command line all laws are tried on them; in the tests those of `make test`, which catch
every fault. A WORD that begins with "test_" picks tests of the files ``NAMED`` by their names instead.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import pytest
import torch
import torch._dynamo  # torch.func imports it at its first call; imported here, all forks share it

WIDE = (torch.float64, torch.float32)
NAMED = (
    "test_worked.py",
    "test_dispatch.py",
    "test_linear_recurrence.py",
    "test_derivatives.py",
    "test_decode.py",
    "test_short_calls.py",
    "test_short_convolution.py",
    "test_rms_norm.py",
    "test_attention.py",
    "test_ridge.py",
    "test_chebyshev.py",
    "test_exact_engines.py",
    "test_dual_form.py",
    "test_local_linear.py",
    "test_local_quadratic.py",
    "test_conditioning.py",
    "test_sizes.py",
    "test_wrong_input.py",
    "test_controls.py",
    "test_recording.py",
    "test_planned_step.py",
    "test_packed.py",
    "test_kernel_sums.py",
    "test_compat_fla.py",
    "test_convert.py",
    "test_compare_pretrained.py",
    "test_gradients_alone.py",
    "test_native_scan.py",
    "test_model_rollback.py",
    "test_model_generation.py",
    "test_model.py",
    "test_model_loading.py",
    "test_model_sizes.py",
    "test_model_packing.py",
    "test_model_heads.py",
    "test_model_compile.py",
    "test_model_neighbours.py",
    "test_export.py",
    "test_hybrids.py",
    "test_saved_models.py",
    "test_fla_models.py",
    "test_to_mixers.py",
    "test_train.py",
    "test_distributed.py",
    "test_hybrid_parts.py",
    "test_hybrid_plans.py",
    "test_tensor_parallel.py",
)
"""The files whose tests can be selected by name."""


Tried = Mapping[str, Set[int]]
"""The numbers of the laws that are checked on "engine problem"; all laws on rows that exist only with the
fault."""


def broken(words: list[str], one_per_class: bool, tried: Tried | None) -> str | None:
    """The first failed check, in words; None if all pass."""
    from ttr.laws.rows import refused_triples, triples

    if len(triples()) + len(refused_triples()) == 0:
        return "no triples"
    tests = [word for word in words if word.startswith("test_")]
    if tests:
        return broken_case() or broken_test(tests)
    return (
        broken_case()
        or broken_law(words, one_per_class, tried)
        or (broken_test(words) if one_per_class else None)
    )


def worked_cases() -> Iterator[tuple]:
    """The hand-worked cases, each with the name of its class."""
    from tests.worked import cases
    from ttr import registry

    for kind in ("weights", "feature", "function", "solver"):
        yield from ((cls.__name__, case) for cls in registry.members(kind) for case in cases(cls))


def broken_case() -> str | None:
    from ttr.dispatch import regress
    from ttr.laws.tolerances import PARITY, error
    from ttr.oracle import oracle

    for name, case in worked_cases():
        call = dict(q=case.q, k=case.k, v=case.v, params=case.params, **case.controls)
        if (
            error(oracle(case.problem, **call), case.y) > PARITY
            or error(regress(case.problem, **call), case.y) > PARITY
        ):
            return f"worked case of {name}"
    return None


def rows(words: list[str], one_per_class: bool) -> Iterator[tuple]:
    """The problems and engines whose names contain every word.

    With ``one_per_class`` only the problems that bring a class of an axis not met so far; feature maps are
    met in their worked cases.
    """
    from ttr.dispatch import refusal
    from ttr.engines import ENGINES
    from ttr.laws.rows import triples

    met = set()
    for problem in triples() + (tuple(case.problem for _, case in worked_cases()) if one_per_class else ()):
        chosen = [
            b
            for b in ENGINES
            if all(word in f"{b.name} {problem!r}" for word in words) and refusal(b, problem) is None
        ]
        classes = {type(part) for part in (problem.weights, problem.function, problem.solver)}
        if chosen and not (one_per_class and classes <= met):
            met |= classes
            yield from ((problem, engine) for engine in chosen)


def broken_law(words: list[str], one_per_class: bool, tried: Tried | None) -> str | None:
    from ttr.laws import LAWS, Setting

    for problem, engine in rows(words, one_per_class):
        for law in LAWS:
            if (
                law.slow
                or tried is not None
                and law.number not in tried.get(f"{engine.name} {problem!r}", {law.number})
            ):
                continue
            for dtype in WIDE if law.number in (1, 7) else WIDE[:1]:
                for m in law(problem, Setting(engine.small(), dtype=dtype)):
                    if not m.passed:
                        return (
                            f"law {law.number} ({m.law}), {m.quantity}: {m.error:.1e} > {m.bound:.0e}, "
                            f"{engine.name}, {problem!r}"
                        )
    return None


def broken_test(tests: list[str]) -> str | None:
    files = [Path(__file__).parents[1] / name for name in NAMED]
    # the others take seconds to import
    defined = [path for path in files if any(f"def {test}" in path.read_text() for test in tests)]
    code = pytest.main(
        [
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-W",
            "ignore",
            "-k",
            " or ".join(tests),
            *map(str, defined or files),
        ]
    )
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        sys.exit(code)
    return None if code == pytest.ExitCode.OK else "the tests by name"


def main(words: list[str], one_per_class: bool = False, tried: Tried | None = None) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        found = broken(words, one_per_class, tried)
    except Exception as failure:  # a fault may also make the package raise
        found = f"{type(failure).__name__}: {failure}"
    print(found or "nothing broken")
    sys.exit(1 if found else 0)


def main_with(source: str, words: list[str], log: str, one_per_class: bool, tried: Tried | None) -> None:
    """``main`` in a process that has imported torch but not ttr, which is imported from ``source`` together
    with the hand-worked cases of new components; output goes to a file."""
    sys.path.insert(0, source)
    # for the processes that tests start
    os.environ["PYTHONPATH"] = os.pathsep.join((source, os.environ.get("PYTHONPATH", "")))
    from tests import worked

    worked.__path__.append(f"{source}/worked")
    with open(log, "w") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        main(words, one_per_class, tried)


if __name__ == "__main__":
    main(sys.argv[1:])
