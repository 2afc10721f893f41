"""The shapes that annotations promise hold in every call that laws 1 and 2 make of the catalogue: the suite checks them as types."""

import pytest

import ttr
from ttr.backends import BACKENDS
from ttr.laws import LAWS, Setting

ROWS = [(name, backend) for name in ttr.catalogue for backend in BACKENDS if backend.refuses(ttr.catalogue[name].problem) is None]


@pytest.mark.parametrize("law", [law for law in LAWS if law.number in (1, 2) and not law.slow], ids=lambda law: law.name)
@pytest.mark.parametrize("name, backend", ROWS, ids=lambda part: getattr(part, "name", part))
def test_shapes_are_as_annotated(name, backend, law):
    assert all(measurement.kept for measurement in law(ttr.catalogue[name].problem, Setting(backend.small())))
