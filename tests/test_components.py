"""Common behaviour of all components: fields of undeclared types are refused in a sentence."""

import dataclasses
import typing

import pytest
import torch

from ttr import registry
from ttr.functions.features.symmetric_power import SymmetricPower

WRONG = ("text", None, float("nan"), float("inf"), (), True, 2.5, 7, object(), (None,), ("text",))


def fields():
    """Every field of every component, with an instance."""
    registry.discover()
    for cls in registry.CLASSES.values():
        if cls.__module__.startswith("ttr."):
            yield from (
                pytest.param(cls.examples()[0], f.name, id=f"{cls.__name__}.{f.name}")
                for f in dataclasses.fields(cls)
            )


@pytest.mark.parametrize("example, name", fields())
def test_a_field_has_its_type_or_the_sentence_says_what_to_use(example, name, monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # which has checks of its own
    kept = 0
    for value in WRONG:
        try:
            changed = dataclasses.replace(example, **{name: value})
        except ValueError as refusal:
            assert str(refusal).endswith(".") and " " in str(refusal), refusal
            kept += "is not possible. Use " in str(refusal)
        else:
            assert (
                type(value) in (bool, int, float, str, tuple)
                or value is None
                and type(None) in types_of(example, name)
            )
            assert changed.to_dict()
    assert kept >= 5


def types_of(example, name):
    return typing.get_args(typing.get_type_hints(type(example))[name])


@pytest.mark.parametrize(
    "value, words",
    [
        ("3", "Use a whole number for chunk."),
        (True, "Use a whole number for chunk."),
        (2.5, "Use a whole number for chunk."),
        (0, "learn nothing"),
    ],
)
def test_the_sentence(value, words, monkeypatch):
    from ttr.solvers.gradient_descent import GradientDescent

    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(ValueError, match=words):
        GradientDescent(chunk=value)


def test_a_component_may_be_made_in_a_compiled_call():
    torch._dynamo.reset()
    x = torch.tensor([[2.0, 3.0]])
    compiled = torch.compile(lambda x: SymmetricPower(2)(x, {}), backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), SymmetricPower(2)(x, {}))
