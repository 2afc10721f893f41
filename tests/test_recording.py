"""Recordings: the operations of a function, replayed on other numbers, and in runs by the kernel."""

import itertools

import numpy
import pytest
import torch
from torch.nn.functional import linear, logsigmoid, silu, softplus, threshold

from tests.tiers import ISAS, tier
from ttr.engines.native import entries, library, operations
from ttr.laws.tolerances import error, tolerance
from ttr.recording import NotRecordable, is_recording, kept_whole, record


def surroundings(x, weight, gain, memory):
    """Operations of all kinds: views, products, sums, parts joined and taken apart."""
    position = torch.arange(3.0, dtype=x.dtype)
    y = linear(x, weight).unflatten(-1, (3, 4))
    first, second = y.split([1, 2], dim=1)
    joined = torch.cat([second, first], dim=1)
    unit = joined * torch.rsqrt((joined * joined).sum(-1, keepdim=True) + 1e-6)
    gated = silu(unit) * gain + (1 - softplus(joined)).clamp(max=0.5)
    read = torch.einsum("bhk,hkv->bhv", gated, memory) + (position[:, None] + 2 * gated.mean(1)[:, None])
    some = linear(x, weight[:4]) + joined[:, 1:].sum(1)
    return read.mT.reshape(x.shape[0], -1), joined[:, 1:], (gated[:, :, None] @ memory)[:, :, 0], some


def arguments(dtype=torch.float64, rows=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (rows, 5), (12, 5), (4,), (3, 4, 4)
    return [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("where", [*ISAS, "torch"])
def test_a_replay_computes_what_the_function_does_on_other_numbers(where, dtype):
    with tier(where):
        recording = record(surroundings, arguments(dtype))
        replay = operations.fused(recording).replay()
        for seed in (1, 2):
            for got, wanted in zip(
                replay(arguments(dtype, seed=seed)), surroundings(*arguments(seed=seed)), strict=True
            ):
                assert error(got, wanted) <= tolerance(dtype)


@pytest.mark.skipif(not library.available(), reason=library.reason() or "")
def test_runs_of_operations_are_single_calls():
    recording = record(surroundings, arguments(torch.float32))
    fused = operations.fused(recording)
    assert len(fused.operations) < len(recording.operations) / 2
    with library.left_out():
        assert operations.fused(recording) is recording


def test_what_the_outputs_do_not_need_is_left_out():
    recording = record(lambda x: [(x.exp(), x + 1, x + 1)[1]], [torch.ones(2)])
    assert len(recording.operations) == 1


def test_tensors_that_are_written_to_stay_apart():
    def function(x):
        first, second = x * 2, x * 2
        first.add_(1)
        second[0] = 5
        counted = torch.zeros(2)
        counted += first
        return first, second, counted

    replay = operations.fused(record(function, [torch.ones(2)])).replay()
    for _ in range(2):
        for got, wanted in zip(replay([torch.full((2,), 3.0)]), function(torch.full((2,), 3.0)), strict=True):
            assert torch.equal(got, wanted)


def test_runs_keep_their_place_beside_operations_that_write():
    """Runs of the kernel on both sides of an operation that writes to what a run before it has made, and that
    one after it reads through a view."""

    def function(x):
        made = (x * 2 + 1).exp()
        view, before = made[1:], (made * 3 - 1).sum()
        made /= made.sum()
        return before, (view * 3 - 1).exp() + before

    replay = operations.fused(record(function, [torch.ones(4)])).replay()
    numbers = torch.linspace(-1, 1, 4)
    for got, wanted in zip(replay([numbers]), function(numbers), strict=True):
        assert torch.allclose(got, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("where", ISAS)
def test_the_kernel_multiplies_one_row(where, dtype):
    """By lengths that fill vectors in groups, singly and not at all."""
    with tier(where):
        for length in (1, 7, 16, 45, 150):
            x, weight = torch.randn(1, length, dtype=dtype), torch.randn(9, length, dtype=dtype)
            recording = operations.fused(record(lambda x, w: [(linear(x, w) * 2 + 1) * 3], [x, weight]))
            assert len(recording.operations) == 1
            made = recording.replay()([x, weight])[0]
            exact = (linear(x.double(), weight.double()) * 2 + 1) * 3
            assert error(made, exact) < tolerance(dtype)


def test_a_conversion_that_is_not_needed_is_no_operation():
    recording = record(lambda x: [x.mT.to(torch.float32).float() + 1], [torch.ones(2, 3)])
    assert [o.function.__name__ for o in recording.operations] == ["__get__", "add"]


def test_random_numbers_are_drawn_anew():
    replay = record(lambda x: [x + torch.rand(3)], [torch.zeros(3)]).replay()
    assert not torch.equal(replay([torch.zeros(3)])[0], replay([torch.zeros(3)])[0])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [x * x.sum().item()],
        lambda x: [x[x > 0]],
        lambda x: [torch.where(x > 0)[0]],
        lambda x: [x.nonzero()],
        lambda x: [x.repeat_interleave(x.long(), 0)],
        lambda x: [torch.repeat_interleave(x.long())],
        lambda x: [x if x.sum() > 0 else -x],
        lambda x: [x[: int(x.sum())]],
        lambda x: [x * float(x.max())],
        lambda x: [x * x.tolist()[0]],
        lambda x: [x + x.data_ptr()],
        lambda x: [x * torch.from_numpy(numpy.asarray(x))],
        lambda x: [x, x.shape],
    ],
)
def test_a_function_that_looks_at_numbers_is_refused(function):
    with pytest.raises(NotRecordable):
        record(function, [torch.ones(2)])
    assert not is_recording()


def test_a_shape_that_changes_in_place_is_refused():
    with pytest.raises(NotRecordable, match="unsqueeze_ changes the shape"):
        record(lambda x: [(x + 1).unsqueeze_(0)], [torch.ones(2)])


def test_a_number_of_repeats_is_recorded():
    replay = record(
        lambda x: [x.repeat_interleave(2), x.repeat_interleave(repeats=3, dim=0)], [torch.ones(2)]
    ).replay()
    twice, thrice = replay([torch.tensor([1.0, 2.0])])
    assert twice.tolist() == [1, 1, 2, 2] and thrice.tolist() == [1, 1, 1, 2, 2, 2]


def test_a_call_that_is_kept_whole_runs_at_every_replay():
    seen = []

    def whole(x, y):
        assert not is_recording()
        seen.append(x.sum().item())  # may look at numbers, and write
        y.add_(1)
        return x * 2, y

    def function(x, y):
        double, same = kept_whole(whole, x + 1, y)
        return double.mT + 1, same

    counter = torch.zeros(())
    replay = operations.fused(record(function, [torch.ones(2, 3), counter])).replay()
    assert seen == [12.0]
    y, same = replay([torch.zeros(2, 3), counter])
    assert seen == [12.0, 6.0] and same is counter and counter == 2
    assert torch.equal(y, torch.full((3, 2), 3.0))


def test_what_a_call_that_is_kept_whole_writes_is_read_again(monkeypatch):
    monkeypatch.setattr(operations, "LEAST", 1)

    def function(x, y):
        before = 2 * y
        (same,) = kept_whole(lambda x, y: [y.add_(x)], x, y)
        return before, 2 * y, 2 * same

    replay = operations.fused(record(function, [torch.ones(2), torch.zeros(2)])).replay()
    before, after, same = replay([torch.full((2,), 3.0), torch.ones(2)])
    assert before.tolist() == [2, 2] and after.tolist() == same.tolist() == [8, 8]


X = torch.tensor([-100.0, -30.0, -1.5, -0.0, 0.3, 1.0, 19.0, 21.0, 100.0])
POSITIVE = {"log", "sqrt", "rsqrt", "log1p", "reciprocal"}


def draw(dtype, *shape):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(len(shape)))


def cases(dtype):
    """name -> (function, tensors): every operation of the kernel, with all its strides."""
    x = X.to(dtype)
    spelled = {"silu": silu, "log_sigmoid": logsigmoid, "softplus": softplus, "copy": lambda t: t.clone()}
    found = {
        name: (spelled.get(name) or getattr(torch, name), [x.abs() + 0.1 if name in POSITIVE else x])
        for name in entries.UNARY
    }
    a, b = draw(dtype, 3, 1, 4, 5), draw(dtype, 2, 4, 1)
    for name in entries.BINARY:
        function = getattr(torch, name)
        found |= {
            f"{name}, broadcast": (function, [a, b]),
            f"{name}, strided": (lambda x, y, f=function: f(x.mT, y[::2].mT), [a, draw(dtype, 4, 4, 5)]),
        }
        if name in ("add", "sub", "mul", "div"):
            found[f"{name}, a number"] = (lambda x, f=function: f(x, 3), [a])
    found |= {
        "a number first": (lambda x: (2 - x, 2 / x, 3 * x, 1 + x), [a]),
        "clamp": (lambda x: x.clamp(-1.5, 1.0), [x]),
        "clamp from below": (lambda x: x.clamp(min=0.2), [x]),
        "threshold": (lambda x: threshold(x, 1.0, -torch.inf), [x]),
        "expanded": (lambda x: x[:, :, :1].expand(3, 1, 4, 5) + 1, [a[:, :, :, :1].clone()]),
        "transposed": (lambda x: (x.mT.contiguous(), x.transpose(0, 3).reshape(5, -1)), [a]),
        "cat": (lambda x, y: torch.cat([x, y, x], dim=2), [a, draw(dtype, 3, 1, 2, 5)]),
        "linear": (linear, [draw(dtype, 2, 1, 70), draw(dtype, 9, 70)]),
        "linear, many rows": (linear, [draw(dtype, 31, 5), draw(dtype, 6, 5)]),
        "outer products": (torch.matmul, [draw(dtype, 2, 40, 1), draw(dtype, 2, 1, 50)]),
        "a square": (lambda x: x**2, [a]),
        "matmul": (torch.matmul, [draw(dtype, 2, 3, 1, 37), draw(dtype, 2, 3, 37, 19)]),
        "matmul, one for all": (torch.matmul, [draw(dtype, 2, 3, 4, 7), draw(dtype, 7, 5)]),
        "matmul, repeated": (torch.matmul, [draw(dtype, 2, 1, 4, 7), draw(dtype, 3, 7, 5)]),
        "matmul, transposed": (lambda x, y: x.mT @ y.mT, [draw(dtype, 2, 7, 4), draw(dtype, 2, 5, 7)]),
    }
    for axes, keep in itertools.product((0, -1, (1, 2), (0, 3), None), (True, False)):
        arguments = {} if axes is None else {"dim": axes, "keepdim": keep}
        found[f"sum {axes} {keep}"] = (lambda x, k=arguments: x.sum(**k), [draw(dtype, 3, 4, 2, 37)])
        found[f"mean {axes} {keep}"] = (lambda x, k=arguments: x.mean(**k), [draw(dtype, 3, 4, 2, 37).mT])
    return found


@pytest.mark.parametrize("where", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_computes_every_operation_as_torch_does(where, dtype, monkeypatch):
    monkeypatch.setattr(operations, "LEAST", 1)
    for name, (function, tensors) in cases(dtype).items():

        def listed(*tensors, function=function):
            made = function(*tensors)
            return [made] if isinstance(made, torch.Tensor) else made

        with tier(where):
            fused = operations.fused(record(listed, tensors))
            # all but the views of its arguments
            assert any(isinstance(o.made, tuple) and not o.made for o in fused.operations), name
            for got, wanted in zip(fused.replay()(tensors), listed(*tensors), strict=True):
                assert got.shape == wanted.shape and got.dtype == dtype, name
                torch.testing.assert_close(got, wanted)


@pytest.mark.skipif(not library.available(), reason=library.reason() or "")
def test_the_kernel_keeps_nan_and_infinities(monkeypatch):
    monkeypatch.setattr(operations, "LEAST", 1)
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0])
    for function in (silu, torch.sigmoid, torch.exp, softplus, torch.tanh, torch.relu, torch.abs):
        got = operations.fused(record(lambda x, f=function: [f(x)], [x])).replay()([x])[0]
        torch.testing.assert_close(got, function(x), equal_nan=True)
    for function in (torch.maximum, torch.minimum):
        y = torch.tensor([0.0, torch.nan, 1.0, torch.nan])
        got = operations.fused(record(lambda x, y, f=function: [f(x, y)], [x, y])).replay()([x, y])[0]
        torch.testing.assert_close(got, function(x, y), equal_nan=True)
