"""The shapes of the annotations hold in every call that laws 1 and 2 make of the catalogue, and in its
layers: run with TTR_TEST_TYPES=1, the default, which checks them as types."""

import pytest
import torch

import ttr
from ttr.dispatch import refusal
from ttr.engines import ENGINES
from ttr.laws import LAWS, Setting

ROWS = [
    (name, engine)
    for name in ttr.catalogue
    for engine in ENGINES
    if refusal(engine, ttr.catalogue[name].problem) is None
]


@pytest.mark.parametrize(
    "law", [law for law in LAWS if law.number in (1, 2) and not law.slow], ids=lambda law: law.name
)
@pytest.mark.parametrize("name, engine", ROWS, ids=lambda part: getattr(part, "name", part))
def test_shapes_are_as_annotated(name, engine, law):
    assert all(
        measurement.passed for measurement in law(ttr.catalogue[name].problem, Setting(engine.small()))
    )


@pytest.mark.parametrize(
    "name", [name for name, entry in ttr.catalogue.items() if entry.problem.function.causal]
)
def test_shapes_in_a_layer(name):
    layer = ttr.nn.Mixer(8, ttr.catalogue[name], heads=2)
    x = torch.randn(2, 5, 8)
    y, state = layer(x[:, :4], return_state=True)
    last, _ = layer.step(x[:, 4], state)
    assert y.shape == (2, 4, 8) and last.shape == (2, 8) and torch.isfinite(last).all()
