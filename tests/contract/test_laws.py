"""Every law on every backend: triples that cover all pairs of examples (with --full all valid triples), and the catalogue."""

import jaxtyping
import pytest
import torch

import ttr
from ttr.backends import BACKENDS
from ttr.dispatch import refusal
from ttr.laws import LAWS, Setting
from ttr.laws.rows import covering, refused_triples, triples
from ttr.problem import Problem

NAMED = {name: ttr.catalogue[name].problem for name in ttr.catalogue}
PROBLEMS = {repr(problem): problem for problem in triples() if problem not in NAMED.values()} | NAMED
ALWAYS = {repr(problem) for problem in covering()} | set(ttr.catalogue)
"""The rows of every run: each pair of examples in some triple, and the catalogue. The other triples belong to `make check`."""
FLOAT32_LAWS = (1, 2, 7)
"""In float32 the laws that measure rounding; the others do not depend on the dtype."""
CALL_LAWS = (12, 13)
"""Laws about how a call is made, not about its mathematics: they depend on the code that runs, which the catalogue reaches everywhere."""


@pytest.fixture(autouse=True)
def refusals_reach_the_caller(request, monkeypatch):
    """Law 11 wants the library's own sentence, which the tests' shape checks would forestall."""
    law = getattr(request.node, "callspec", None) and request.node.callspec.params.get("law")
    if law is not None and law.number == 11:
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def check(problem: Problem, law, setting: Setting) -> None:
    broken = [m for m in law(problem, setting) if not m.kept]
    assert not broken, "\n".join(f"{m.quantity}: {m.error:.2e} > {m.bound:.0e}" for m in broken)


def cases(dtype, always=ALWAYS):
    for name, problem in PROBLEMS.items():
        for backend in BACKENDS:
            if refusal(backend, problem) is None:
                marks = () if name in always else pytest.mark.full
                yield pytest.param(problem, backend, id=f"{backend.name}-{name}-{str(dtype)[6:]}", marks=marks)


@pytest.mark.parametrize("law", [law for law in LAWS if law.number not in CALL_LAWS and not law.slow], ids=lambda law: law.name)
@pytest.mark.parametrize("problem, backend", cases(torch.float64))
def test_law(problem, backend, law):
    check(problem, law, Setting(backend.small()))


@pytest.mark.parametrize("law", [law for law in LAWS if law.number in CALL_LAWS and not law.slow], ids=lambda law: law.name)
@pytest.mark.parametrize("problem, backend", cases(torch.float64, always=NAMED))
def test_law_of_calls(problem, backend, law):
    check(problem, law, Setting(backend.small()))


@pytest.mark.parametrize("law", [law for law in LAWS if law.number in FLOAT32_LAWS and not law.slow], ids=lambda law: law.name)
@pytest.mark.parametrize("problem, backend", cases(torch.float32))
def test_law_in_float32(problem, backend, law):
    check(problem, law, Setting(backend.small(), dtype=torch.float32))


@pytest.mark.full
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("law", [law for law in LAWS if law.slow], ids=lambda law: law.name)
@pytest.mark.parametrize("problem, backend", [row for row in cases(torch.float64) if row.values[0] in NAMED.values()])
def test_slow_law(problem, backend, law, dtype):
    check(problem, law, Setting(backend, dtype=dtype))


@pytest.mark.parametrize("triple", refused_triples(), ids=repr)
def test_refusals_are_sentences_with_a_remedy(triple):
    with pytest.raises(ValueError, match=r"^[A-Z].*Use .*\.$"):
        Problem(*triple)


def test_every_backend_serves_somebody():
    for backend in (backend for backend in BACKENDS if backend.missing() is None):
        assert any(backend.refuses(problem) is None for problem in PROBLEMS.values()), backend.name


def test_every_refusal_of_a_backend_is_a_sentence():
    for problem in PROBLEMS.values():
        for backend in BACKENDS:
            reason = backend.refuses(problem)
            assert reason is None or (reason[0].isupper() and reason.endswith(".")), (backend.name, reason)
