"""Controls of components outside the package: declared ones work like the others, undeclared ones are refused
in a sentence."""

import dataclasses

import pytest
import torch

import ttr
from ttr.controls import CONTROLS, Control, declare
from ttr.functions.linear import Linear
from ttr.laws.rows import make_case
from ttr.laws.tolerances import error, tolerance
from ttr.problem import Problem, Weights
from ttr.solvers.delta_rule import DeltaRule
from ttr.solvers.one_step import OneStep
from ttr.weights.geometric import Geometric

FLOOR = Control(("BTH",), "least share of the past that is kept", above=0.0)


@dataclasses.dataclass(frozen=True)
class _Floored(Geometric):
    def controls(self):
        return {**super().controls(), "floor": "BTH"}

    def log_retention(self, controls, params, heads, like):
        return torch.maximum(super().log_retention(controls, params, heads, like), controls["floor"].log())


@dataclasses.dataclass(frozen=True)
class _Held(Geometric):
    def log_retention(self, controls, params, heads, like):
        return super().log_retention(controls, params, heads, like).clamp(min=-0.3)


@pytest.fixture
def declared(monkeypatch):
    monkeypatch.setitem(CONTROLS, "floor", FLOOR)


def test_an_undeclared_control_is_refused_where_the_problem_is_made():
    with pytest.raises(
        ValueError,
        match=(
            r"The control 'floor' of _Floored\(\) is not declared. Use "
            r"ttr.controls.declare\('floor', .*\.$"
        ),
    ):
        Problem(_Floored(), Linear(), OneStep())


def test_a_declared_control_is_like_the_others(declared):
    declare("floor", FLOOR)  # again, as when its file is reloaded
    problem = Problem(_Floored(), Linear(), OneStep())
    case = make_case(problem)
    reference = ttr.oracle(problem, **case.arguments())
    assert error(ttr.regress(problem, **case.arguments()), reference) <= tolerance(torch.float64)
    explanation = ttr.explain(problem, **case.arguments())
    assert "least share of the past" in str(explanation) and explanation.latex()
    with pytest.raises(ValueError, match="'floor' .least share.* must be above 0.0"):
        ttr.regress(problem, **{**case.arguments(), "floor": -case.controls["floor"]})
    with pytest.raises(ValueError, match="There is no default gate for floor"):
        ttr.nn.Mixer(8, problem, heads=2)


@pytest.mark.parametrize(
    "name, control",
    [
        ("log_decay", FLOOR),
        ("state", FLOOR),
        ("a floor", FLOOR),
        (3, FLOOR),
        ("floor", None),
        ("floor", Control((), "none")),
        ("floor", Control(("H",), "a parameter")),
        ("floor", Control(("BTZ",), "Z")),
    ],
)
def test_what_is_no_control_cannot_be_declared(name, control):
    with pytest.raises(ValueError, match=r"\.$"):
        declare(name, control)
    assert CONTROLS.get(name) is not FLOOR


def test_axes_that_a_control_does_not_have_are_refused():
    @dataclasses.dataclass(frozen=True)
    class _Odd(Weights):
        def controls(self):
            return {"log_decay": "BTV"}

    with pytest.raises(
        ValueError,
        match=(
            r"'log_decay' has axes BTH or BTHK, and _Odd\(\) asks for BTV. Use "
            r"one of these"
        ),
    ):
        Problem(_Odd(), Linear(), OneStep())


@pytest.mark.parametrize("solver", [OneStep(), DeltaRule()], ids=repr)
def test_a_token_is_that_of_the_weights_and_not_of_the_class_they_are_made_from(solver):
    """Geometric declares that its control is the log decay; a class derived from it does not."""
    problem = Problem(_Held(), Linear(), solver)
    case = make_case(problem, past=2)
    token = {
        name: x[:, 0].contiguous() if isinstance(x, torch.Tensor) else x
        for name, x in case.arguments().items()
    }
    reference = ttr.oracle(problem, **case.arguments())[:, 0]
    assert (case.controls["log_decay"][:, 0] < -0.3).any()
    for y, _ in (ttr.step(problem, **token), ttr.step(problem, **token), ttr.plan(problem, **token)(**token)):
        assert error(y, reference) <= tolerance(torch.float64)
