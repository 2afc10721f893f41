"""The short convolution: every tier equals the plain form, in values and derivatives; sequences packed, split
and continued."""

import os

import pytest
import torch

from tests.registered import assert_as_promised, transposed
from ttr.engines.native import convolution as native
from ttr.engines.native import library
from ttr.laws.layout import LAYOUTS
from ttr.laws.tolerances import error, tolerance
from ttr.layer.qkv.short_convolution import ShortConvolution
from ttr.layer.sequences import Sequences
from ttr.operators import short_convolution as operator
from ttr.operators.short_convolution import composite, short_convolution

NATIVE = pytest.param(
    "native", marks=pytest.mark.skipif(not library.available(), reason=("the native kernels were not built"))
)
PACKED = (0, 0, 4, 5, 19, 19)


@pytest.fixture(params=["products", "onednn", NATIVE])
def tier(request, monkeypatch):
    """The tier that runs the convolution, with blocks so small that short sequences need several."""
    if request.param != "native":
        monkeypatch.setattr(native, "serves", lambda *tensors, width: False)
    monkeypatch.setattr(operator, "BLOCK", 60)
    monkeypatch.setattr(operator, "ONEDNN", 1 if request.param == "onednn" else float("inf"))
    return request.param


def case(dtype=torch.float64, rows=2, tokens=19, channels=21, width=4, bounds=None, bias=True):
    """x, tail, weight, bias, bounds."""
    bounds = None if bounds is None else torch.tensor(bounds)
    shapes = [
        (rows, tokens, channels),
        (rows if bounds is None else len(bounds) - 1, width - 1, channels),
        (width, channels),
        (channels,),
    ]
    tensors = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    return *tensors[:3], tensors[3] if bias else None, bounds


def outcome(function, x, tail, weight, bias, bounds, silu=True):
    """y and the gradients of every input that has one, of a sum with fixed weights."""
    leaves = [tensor for tensor in (x, tail, weight, bias) if tensor is not None]
    y = function(x, tail, weight, bias, bounds=bounds, silu=silu)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return y, *torch.autograd.grad(y, leaves, cotangent)


def double(tensors):
    return [
        tensor.detach().double().requires_grad_()
        if tensor is not None and tensor.is_floating_point()
        else tensor
        for tensor in tensors
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)  # oneDNN runs the latter
@pytest.mark.parametrize("lay", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_gives_the_same(tier, lay, dtype):
    tensors = case(dtype, bounds=PACKED, rows=1)
    laid = [lay(tensor.detach())[1] for tensor in tensors]
    inputs = [tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor for tensor in laid]
    y, *gradients = outcome(short_convolution, *tensors)
    found = short_convolution(*inputs[:4], bounds=inputs[4], silu=True)
    cotangent = lay(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y))[1]
    for one, other in zip(
        [found, *torch.autograd.grad(found, inputs[:4], cotangent)], [y, *gradients], strict=True
    ):
        assert error(one, other) <= tolerance(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"bounds": PACKED, "rows": 1},
        {"width": 2, "bias": False},
        {"width": 7, "channels": 3},
        {"tokens": 0},
        {"tokens": 1},
        {"tokens": 2, "rows": 5},
        {"width": 9},
        {"rows": 0},
        {"rows": 7, "channels": 1},
        {"tokens": 600, "channels": 5},
    ],
    ids=str,
)
def test_every_tier_is_the_plain_form(tier, dtype, silu, shape):
    tensors = case(dtype, **shape)
    for found, expected in zip(
        outcome(short_convolution, *tensors, silu), outcome(composite, *double(tensors), silu), strict=True
    ):
        assert found.dtype == dtype and error(found, expected) <= tolerance(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_silu_is_right_everywhere(tier, dtype):
    """From zero to beyond the overflow of exponentials, with both signs."""
    x = (
        torch.cat([side * torch.logspace(-6, 3, 500, dtype=dtype) for side in (-1, 1)])
        .reshape(1, 1, 1000)
        .requires_grad_()
    )
    weight, tail = (
        torch.tensor([[0.0], [1.0]], dtype=dtype).expand(2, 1000),
        torch.zeros(1, 1, 1000, dtype=dtype),
    )
    y = short_convolution(x, tail, weight, silu=True)
    (slope,) = torch.autograd.grad(y.sum(), x)
    x = x.detach().double().requires_grad_()
    expected = torch.nn.functional.silu(x)
    (expected_slope,) = torch.autograd.grad(expected.sum(), x)
    near = x.detach().abs().clamp(min=1)
    assert error(y / near, expected / near) <= tolerance(dtype) and error(slope, expected_slope) <= tolerance(
        dtype
    )


def test_packed_sequences_are_separate_ones(tier):
    x, tail, weight, bias, bounds = case(bounds=PACKED, rows=1)
    packed = short_convolution(x, tail, weight, bias, silu=True, bounds=bounds)
    parts = [
        short_convolution(x[:, a:b], tail[i : i + 1], weight, bias, silu=True)
        for i, (a, b) in enumerate(zip(PACKED, PACKED[1:]))
    ]
    assert error(packed, torch.cat(parts, dim=1)) <= tolerance(x.dtype)


@pytest.mark.parametrize("bounds", [None, PACKED])
@pytest.mark.parametrize("cuts", [(7,), (1, 2, 3), tuple(range(1, 19))])
def test_segments_with_a_tail_are_the_whole(tier, cuts, bounds):
    """The transform on token streams with heads: outputs and final tails, in segments that cut packed
    sequences."""
    rows = 2 if bounds is None else 1
    transform, x = ShortConvolution(streams=("k",)), torch.randn(rows, 19, 3, 7, dtype=torch.float64)
    tail, params = (
        torch.randn(2 if bounds is None else len(PACKED) - 1, 3, 3, 7, dtype=x.dtype),
        {"k": torch.randn(4, 3, 7, dtype=x.dtype)},
    )

    def run(start, stop, tail):
        within = None if bounds is None else torch.tensor(bounds).clamp(start, stop) - start
        sequences = Sequences(stop - start, torch.zeros(len(tail), dtype=torch.int64), within)
        y = transform.continued(params, {"k": x[:, start:stop]}, {"k": tail}, sequences)["k"]
        return y, sequences.tail(x[:, start:stop], tail)

    whole, last = run(0, 19, tail)
    sequences = Sequences(
        19, torch.zeros(len(tail), dtype=torch.int64), None if bounds is None else torch.tensor(bounds)
    )
    extended = sequences.extend(x, tail)
    assert bounds is not None or error(transform(params, {"k": extended})["k"], whole) <= tolerance(x.dtype)
    parts = []
    for start, stop in zip((0, *cuts), (*cuts, 19)):
        y, tail = run(start, stop, tail)
        parts.append(y)
    assert error(torch.cat(parts, dim=1), whole) <= tolerance(x.dtype)
    assert torch.equal(tail, last)


def test_memory_layout_and_autocast_change_nothing(tier):
    x, tail, weight, bias, _ = (
        tensor if tensor is None else tensor.detach() for tensor in case(torch.float32)
    )
    expected = short_convolution(x, tail, weight, bias, silu=True)
    inside = torch.randn(19, 2, 50)[:, :, 3:24].transpose(0, 1).copy_(x)
    turned = x.mT.contiguous().mT
    for laid in (inside, turned):
        found = short_convolution(laid, tail.mT.contiguous().mT, weight.mT.contiguous().mT, bias, silu=True)
        assert error(found, expected) <= tolerance(x.dtype)
    y, cotangent = (
        short_convolution(x.requires_grad_(), tail, weight, bias, silu=True),
        torch.randn(2, 19, 50)[:, :, 3:24],
    )
    slopes = [
        torch.autograd.grad(y, x, laid, retain_graph=True)[0] for laid in (cotangent, cotangent.contiguous())
    ]
    assert error(*slopes) <= tolerance(x.dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for wants_grad in (False, True):
            found = short_convolution(x.requires_grad_(wants_grad), tail, weight, bias, silu=True)
            assert found.dtype == x.dtype and error(found, expected) <= tolerance(x.dtype)


@pytest.mark.parametrize("bounds", [None, (0, 2, 2, 5)])
def test_derivatives_of_first_and_second_order(tier, bounds):
    *tensors, bounds = case(rows=1, tokens=5, channels=2, width=3, bounds=bounds)

    def run(*tensors):
        return short_convolution(*tensors, silu=True, bounds=bounds)

    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors)


def test_functorch_passes_through():
    x, tail, weight, bias, _ = case()

    def loss(weight, x, tail):
        return short_convolution(x[None], tail[None], weight, bias, silu=True).square().sum()

    per_row = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weight, x, tail)
    for row in range(2):
        expected = torch.autograd.grad(loss(weight, x[row], tail[row]), weight)[0]
        assert error(per_row[row], expected) <= tolerance(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bounds", [None, PACKED])
def test_the_operators_are_registered_well(tier, bounds, dtype):
    *tensors, bounds = case(dtype, rows=1, bounds=bounds)
    torch.library.opcheck(torch.ops.ttr.short_convolution.default, (*tensors, bounds, True))
    grad, *tensors = map(transposed, (torch.randn_like(tensors[0]), *(x.detach() for x in tensors)))
    assert_as_promised(torch.ops.ttr.short_convolution.default, (*tensors, bounds, True))
    assert_as_promised(torch.ops.ttr.short_convolution_backward.default, (grad, *tensors, bounds, True))


@pytest.mark.skipif(os.environ.get("TTR_TEST_TYPES", "1") == "1", reason="run with TTR_TEST_TYPES=0")
def test_compiled_is_eager(tier):
    torch._dynamo.reset()
    compiled = torch.compile(short_convolution, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens in (19, 11):
        tensors = case(tokens=tokens)
        for found, expected in zip(outcome(compiled, *tensors), outcome(composite, *tensors), strict=True):
            assert error(found, expected) <= tolerance(found.dtype)


@pytest.mark.skipif(not library.available(), reason="the native kernels were not built")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_number_of_threads_changes_no_bit(dtype):
    tensors, found = case(dtype, channels=150, tokens=600), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        try:
            found.append(outcome(short_convolution, *tensors))
        finally:
            torch.set_num_threads(1)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
