"""Every entry of the catalogue: the oracle equals an original implementation, or an independent derivation
where none runs here."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import ttr
from ttr.laws.tolerances import PARITY

from .case import CASES, Case, measure

for _module in pkgutil.iter_modules([str(Path(__file__).parent)]):
    if _module.name.startswith("cases_"):  # each registers its cases
        importlib.import_module(f"{__package__}.{_module.name}")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_oracle_equals_original(case: Case, record_property) -> None:
    errors = measure(case)
    record_property("parity", (case.entry, case.original, max(errors.values())))
    assert max(errors.values()) <= PARITY, errors


@pytest.mark.parametrize("entry", ttr.catalogue)
def test_every_entry_has_a_parity_case_with_the_originals_it_names(entry: str) -> None:
    originals = [case.original for case in CASES if case.entry == entry]
    assert originals, f"Write a case for {entry!r} in tests/parity/cases_*.py: its memory beside an original."
    for path in re.findall(r"\w+/[\w./]+", ttr.catalogue[entry].verified):
        assert any(path in original for original in originals), (
            f"{entry!r} says it is verified against {path}, which none of its parity cases runs."
        )
