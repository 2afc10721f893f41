"""Parts of a layer from outside the package: a weight with a control of its own, the gate that makes it, a
transform and an output run in a Mixer like those of the package."""

import dataclasses
import functools
from typing import ClassVar

import pytest
import torch

import ttr
from ttr.component import Parameter, constant
from ttr.controls import CONTROLS, Control, declare
from ttr.functions.linear import Linear
from ttr.laws.tolerances import FLOAT64, error
from ttr.layer.architecture import Architecture
from ttr.layer.gates.decays import MambaDecay
from ttr.layer.gates.projected import SigmoidGate
from ttr.layer.part import Gate, Output, QKVTransform
from ttr.nn import Mixer
from ttr.problem import Problem
from ttr.solvers.delta_rule import DeltaRule
from ttr.weights.geometric import Geometric


@dataclasses.dataclass(frozen=True)
class _Floored(Geometric):
    """Geometric weights whose decay is at least ``floor``."""

    def controls(self):
        return {**super().controls(), "floor": "BTH"}

    def log_retention(self, controls, params, heads, like):
        return torch.maximum(super().log_retention(controls, params, heads, like), controls["floor"].log())


@dataclasses.dataclass(frozen=True)
class _LearnedFloor(Gate):
    """floor = sigmoid(w) per head, the same for every token."""

    makes: ClassVar[tuple[str, ...]] = ("floor",)
    axes: ClassVar[str] = "BTH"

    def parameters(self, sizes):
        return {"weight": Parameter((sizes.heads,), constant(1.0))}

    def __call__(self, params, streams):
        return {"floor": params["weight"].sigmoid().expand(*streams["x"].shape[:2], -1)}


@dataclasses.dataclass(frozen=True)
class _Halved(QKVTransform):
    """v / 2."""

    def __call__(self, params, streams):
        return {"v": streams["v"] / 2}


@dataclasses.dataclass(frozen=True)
class _Doubled(Output):
    """2 y."""

    def __call__(self, params, streams):
        return {"y": 2 * streams["y"]}


@pytest.fixture(autouse=True)
def declared():
    declare("floor", Control(("BTH",), "least share of the past that is kept", above=0.0))
    declare("reach", Control(("BTH",), "log weight of the pair", above=-1.0))
    yield
    del CONTROLS["floor"], CONTROLS["reach"]


def layer(floor, **parts):
    torch.manual_seed(0)
    gates = (MambaDecay(), SigmoidGate("step_size"), floor)
    return Mixer(
        8, Architecture(Problem(_Floored(), Linear(), DeltaRule()), gates=gates, **parts), heads=2
    ).double()


@pytest.mark.parametrize("floor", [_LearnedFloor, functools.partial(SigmoidGate, "floor", bias=1.0)])
def test_a_gate_makes_a_control_of_its_own(floor):
    mixer, x = layer(floor()), torch.randn(2, 6, 8, dtype=torch.float64)
    (weight,) = (x for name, x in mixer.gates["floor"].named_parameters() if name.endswith("weight"))
    assert weight.shape[0] == 2
    whole, state = mixer(x), mixer.initial_state(2)
    for t in range(6):
        y, state = mixer.step(x[:, t], state)
        assert error(y, whole[:, t]) <= FLOAT64
    whole.sum().backward()
    assert weight.grad.abs().max() > 0


def test_a_transform_and_an_output_act():
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    assert (
        error(layer(_LearnedFloor(), qkv=(_Halved(),), output=(_Doubled(),))(x), layer(_LearnedFloor())(x))
        <= FLOAT64
    )


def test_a_control_that_nobody_declared_is_refused():
    with pytest.raises(ValueError, match="is not a control that comes with every token.*controls.declare"):
        SigmoidGate("flour")
    with pytest.raises(ValueError, match="per='group'. is not possible. Use per='head' or 'channel'"):
        SigmoidGate("log_decay", per="group")


@dataclasses.dataclass(frozen=True)
class _Reaching(Geometric):
    """Geometric weights whose pairs count exp(``reach``) each."""

    importance: ClassVar[bool] = True

    def controls(self):
        return {**super().controls(), "reach": "BTH"}

    def log_importance(self, controls, params):
        return controls["reach"]


def test_laws_of_importance_hold_for_one_made_from_another_control():
    problem = Problem(_Reaching(), Linear(), DeltaRule())
    report = ttr.verify(problem, laws=["importance"], engines=["recurrent"])
    assert report and all(finding.shown is not None for finding in report.ran)


def test_a_report_of_no_law_is_not_passed():
    report = ttr.verify(Problem(Geometric(), Linear(), DeltaRule()), laws=[1], engines=["attention"])
    assert not report and not report.ran
