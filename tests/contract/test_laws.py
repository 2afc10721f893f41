"""Every law on every engine, on the rows of `rows.py` (with --full on all), and on the catalogue."""

from unittest import mock

import jaxtyping
import pytest
import torch

import ttr
from tests.contract.rows import CALL_LAWS, FLOAT32_LAWS, NAMED, NAMES, checks, examples, rows, tried
from ttr.dispatch import refusal
from ttr.engines import ENGINES
from ttr.laws import LAWS, Setting
from ttr.laws.law import laws_named
from ttr.laws.rows import refused_triples
from ttr.problem import Problem


def pytest_generate_tests(metafunc):
    if "row" not in metafunc.fixturenames:
        return
    full, layer, law = (metafunc.config.getoption(option) for option in ("--full", "--layer", "--law"))
    laws = laws_named([law] if law else None, LAWS)
    if layer:
        problem = ttr.catalogue[layer].problem
        chosen = [(problem, engine) for engine in ENGINES if refusal(engine, problem) is None]
        tries = [[(each, torch.float64) for each in laws if full or not each.slow]] * len(chosen)
    else:
        every = [(row, [check for check in checks(row, full) if check[0] in laws]) for row in rows()]
        chosen, tries = zip(*((row, found) for row, found in every if found))
    metafunc.parametrize(
        "row, tries",
        list(zip(chosen, tries)),
        ids=[f"{engine.name}-{NAMED.get(problem) or NAMES[problem]}" for problem, engine in chosen],
    )


def again(row, law):
    """The command that checks a law on a row again."""
    problem, engine = row
    if problem in NAMED:
        return f"ttr verify {NAMED[problem]} --law {law.number} --engine {engine.name}"
    return f"ttr.verify({problem!r}, laws=[{law.number}], engines=[{engine.name!r}])"


def failures(row, law, dtype, small=True):
    problem, engine = row
    with mock.patch.object(
        jaxtyping.config, "jaxtyping_disable", law.number == 11 or jaxtyping.config.jaxtyping_disable
    ):
        # law 11 checks the library's own message, which the tests' shape checks would preempt
        found = law(problem, Setting(engine.small() if small else engine, dtype=dtype))
    return [
        f"law {law.number} ({law.name}) in {dtype}, {m.quantity}: {m.error:.2e} > {m.bound:.0e}; again: "
        + again(row, law)
        for m in found
        if not m.passed
    ]


def test_laws(row, tries):
    found = [line for law, dtype in tries for line in failures(row, law, dtype)]
    assert not found, "\n".join(found)


SLOW = [
    pytest.param(law, dtype, id=f"{law.name}-{dtype}")
    for law in LAWS
    if law.slow
    for dtype in (torch.float64, torch.float32)[: 1 + (law.number in FLOAT32_LAWS)]
]


@pytest.mark.full
@pytest.mark.parametrize("law, dtype", SLOW)
@pytest.mark.parametrize(
    "named", [row for row in rows() if row[0] in NAMED], ids=lambda row: f"{row[1].name}-{NAMED[row[0]]}"
)
def test_slow_laws(named, law, dtype):
    found = failures(named, law, dtype, small=False)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_the_rows_of_every_law(law):
    assert {row for row in rows() if row[0] in NAMED} <= tried(law)
    if law.number not in CALL_LAWS:
        assert set().union(*map(examples, tried(law))) == set().union(*map(examples, rows()))


def test_refusals_are_sentences_with_a_remedy():
    for triple in refused_triples():
        with pytest.raises(ValueError, match=r"^[A-Z].*Use .*\.$"):
            Problem(*triple)


def test_every_engine_runs_a_problem():
    assert {engine.name for _, engine in rows()} == {
        engine.name for engine in ENGINES if engine.missing() is None
    }


def test_every_refusal_of_an_engine_is_a_sentence():
    for problem in NAMES:
        for engine in ENGINES:
            reason = engine.refuses(problem)
            assert reason is None or (reason[0].isupper() and reason.endswith(".")), (engine.name, reason)
