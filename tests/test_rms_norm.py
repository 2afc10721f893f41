"""The norm with gain and gate, block by block: it equals the plain form in values, first and second
derivatives."""

import pytest
import torch

from tests.worked import cases
from ttr.laws.tolerances import error, tolerance
from ttr.layer.output.norms import GatedRMSNorm, RMSNorm
from ttr.layer.qkv.norms import UnitNorm
from ttr.operators import rms_norm as operator
from ttr.operators.rms_norm import rms_norm

EPS = 0.25  # so large that it matters
CALLS = [
    {},
    {"mean": False},
    {"activation": "sigmoid"},
    {"gate_first": True},
    {"gate_first": True, "activation": "sigmoid", "mean": False},
]


@pytest.fixture
def blocks(monkeypatch):
    """Blocks so small that every call has several."""
    monkeypatch.setattr(operator, "BLOCK", 10)


def definition(x, eps, gain=None, gate=None, activation="silu", gate_first=False, mean=True):
    """y / rms(y), written out."""
    axes = (-1,) if gain is None else tuple(range(-gain.ndim, 0))
    factor = 1.0 if gate is None else torch.sigmoid(gate) * (gate if activation == "silu" else 1.0)
    p = x * factor if gate_first else x
    squares = p.square().mean(axes, keepdim=True) if mean else p.square().sum(axes, keepdim=True)
    y = p / (squares + eps).sqrt() * (1.0 if gain is None else gain)
    return y if gate_first else y * factor


def outcome(function, leaves, **call):
    """y and the gradients of x and of the gain and gate, if there are any."""
    y = function(leaves["x"], EPS, **{name: tensor for name, tensor in leaves.items() if name != "x"}, **call)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return y, *torch.autograd.grad(y, list(leaves.values()), cotangent)


def tensors(dtype=torch.float64, axes=1, rows=(2, 5), without=()):
    shapes = {"x": (*rows, 3, 4), "gain": (3, 4)[2 - axes :], "gate": (*rows, 3, 4)}
    return {
        name: torch.randn(shape, dtype=dtype, requires_grad=True)
        for name, shape in shapes.items()
        if name not in without
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("without", [(), ("gain",), ("gate",), ("gain", "gate")], ids=str)
@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_blocks_are_the_definition(blocks, call, axes, without, dtype):
    leaves = tensors(dtype, axes, without=without)
    wide = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}
    for found, expected in zip(
        outcome(rms_norm, leaves, **call), outcome(definition, wide, **call), strict=True
    ):
        assert found.dtype == dtype and error(found, expected) <= tolerance(dtype)


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_short_calls_are_the_definition(call):
    leaves = tensors(torch.float32)
    for found, expected in zip(
        outcome(rms_norm, leaves, **call), outcome(definition, leaves, **call), strict=True
    ):
        assert error(found, expected) <= tolerance(torch.float32)


@pytest.mark.parametrize("rows", [(0, 5), (1, 1)])
def test_few_tokens(blocks, rows):
    leaves = tensors(rows=rows)
    for found, expected in zip(outcome(rms_norm, leaves), outcome(definition, leaves), strict=True):
        assert error(found, expected) <= tolerance(torch.float64)


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_derivatives_of_first_and_second_order(blocks, call):
    leaves = tensors(rows=(1, 2))
    names = list(leaves)

    def run(*values):
        given = dict(zip(names, values))
        return rms_norm(given.pop("x"), EPS, **given, **call)

    assert torch.autograd.gradcheck(run, list(leaves.values()))
    assert torch.autograd.gradgradcheck(run, list(leaves.values()))


def test_mixed_widths_and_no_gradient(blocks):
    """A gate in float32 on a read-out in bfloat16, as under autocast, with and without gradients."""
    leaves = tensors(torch.bfloat16)
    leaves["gate"] = leaves["gate"].detach().float().requires_grad_()
    wide = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}
    found, expected = outcome(rms_norm, leaves), outcome(definition, wide)
    assert [part.dtype for part in found] == [torch.bfloat16, torch.bfloat16, torch.bfloat16, torch.float32]
    assert all(error(a, b) <= tolerance(torch.bfloat16) for a, b in zip(found, expected, strict=True))
    with torch.no_grad():
        assert torch.equal(rms_norm(leaves["x"], EPS, gain=leaves["gain"], gate=leaves["gate"]), found[0])


def test_functorch_passes_through(blocks):
    leaves = tensors()

    def loss(gain, x, gate):
        return rms_norm(x, EPS, gain=gain, gate=gate).square().sum()

    per_row = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(
        leaves["gain"], leaves["x"], leaves["gate"]
    )
    for row in range(2):
        expected = torch.autograd.grad(
            loss(leaves["gain"], leaves["x"][row], leaves["gate"][row]), leaves["gain"]
        )[0]
        assert error(per_row[row], expected) <= tolerance(torch.float64)


@pytest.mark.parametrize(
    "part", [*GatedRMSNorm.examples(), *RMSNorm.examples(), *UnitNorm.examples()], ids=repr
)
def test_parts_are_worked_in_blocks(blocks, part):
    """The hand-worked cases, repeated over so many tokens that they need several blocks."""
    case = cases(type(part))[0]
    streams = {name: stream.double().expand(3, 7, *stream.shape[2:]) for name, stream in case.streams.items()}
    made = case.part({name: tensor.double() for name, tensor in case.params.items()}, streams)
    for name, expected in case.expected.items():
        assert error(made[name], expected.double().expand_as(made[name])) <= tolerance(torch.float32)
