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


FIRST = {engine: name for name, engine in reversed(ROWS)}.items()
"""An entry of each engine, whose segments and steps are read in every run; those of all others belong to
`make check`, since types are checked at every step."""
EQUAL, SPLIT = (law for law in LAWS if law.number in (1, 2) and not law.slow)


@pytest.mark.parametrize(
    "name, engine, law",
    [
        pytest.param(
            name,
            engine,
            law,
            id=f"{name}-{engine.name}-{law.name}",
            marks=() if law is EQUAL or (engine, name) in FIRST else pytest.mark.full,
        )
        for name, engine in ROWS
        for law in (EQUAL, SPLIT)
    ],
)
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
