"""Every law on every engine, on the rows that `rows.py` names (with --full on all), and on the catalogue."""

from unittest import mock

import jaxtyping
import pytest
import torch

from tests.contract.rows import CALL_LAWS, NAMED, NAMES, checks, examples, rows, tried
from ttr.engines import ENGINES
from ttr.laws import LAWS, Setting
from ttr.laws.rows import refused_triples
from ttr.problem import Problem


def pytest_generate_tests(metafunc):
    if "row" in metafunc.fixturenames:
        full = metafunc.config.getoption("--full")
        chosen = [row for row in rows() if next(checks(row, full), None)]
        metafunc.parametrize(
            "row, full",
            [(row, full) for row in chosen],
            ids=[f"{engine.name}-{NAMES[problem]}" for problem, engine in chosen],
        )


def broken(row, law, dtype, small=True):
    problem, engine = row
    with mock.patch.object(
        jaxtyping.config, "jaxtyping_disable", law.number == 11 or jaxtyping.config.jaxtyping_disable
    ):
        # law 11 wants the library's own sentence, which the tests' shape checks would forestall
        found = law(problem, Setting(engine.small() if small else engine, dtype=dtype))
    return [
        f"law {law.number} ({law.name}) in {dtype}, {m.quantity}: {m.error:.2e} > {m.bound:.0e}"
        for m in found
        if not m.kept
    ]


def test_laws(row, full):
    found = [line for law, dtype in checks(row, full) for line in broken(row, law, dtype)]
    assert not found, "\n".join(found)


@pytest.mark.full
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("law", [law for law in LAWS if law.slow], ids=lambda law: law.name)
@pytest.mark.parametrize(
    "named", [row for row in rows() if row[0] in NAMED], ids=lambda row: f"{row[1].name}-{NAMED[row[0]]}"
)
def test_slow_laws(named, law, dtype):
    found = broken(named, law, dtype, small=False)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_what_every_law_meets(law):
    assert {row for row in rows() if row[0] in NAMED} <= tried(law)
    if law.number not in CALL_LAWS:
        assert set().union(*map(examples, tried(law))) == set().union(*map(examples, rows()))


def test_refusals_are_sentences_with_a_remedy():
    for triple in refused_triples():
        with pytest.raises(ValueError, match=r"^[A-Z].*Use .*\.$"):
            Problem(*triple)


def test_every_engine_serves_somebody():
    assert {engine.name for _, engine in rows()} == {
        engine.name for engine in ENGINES if engine.missing() is None
    }


def test_every_refusal_of_a_engine_is_a_sentence():
    for problem in NAMES:
        for engine in ENGINES:
            reason = engine.refuses(problem)
            assert reason is None or (reason[0].isupper() and reason.endswith(".")), (engine.name, reason)
