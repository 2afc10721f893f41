"""The C kernel against the definition of a recurrence, token by token in float64, and its further
properties."""

from __future__ import annotations

import ctypes
import itertools

import pytest
import torch
from torch import Tensor

from tests.recurrences import leaves, literally
from tests.tiers import ISAS, tier
from ttr.engines.native import library
from ttr.engines.native.recurrence import INPUTS, NativeKernel, _Arguments
from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.laws.tolerances import error, tolerance

pytestmark = pytest.mark.skipif(not library.available(), reason=library.reason() or "")

STRONG = torch.tensor([0.0, -1e-3, -1.0, -5.0, -20.0, -80.0])
"""Log decays that occur in one chunk; the last is a reset."""

KINDS = ("additive", "delta", "erase")
DECAYS = (None, "head", "channel")
ORDERS = tuple(itertools.product((False, True), (False, True)))
"""``old``, ``reads_first``."""

DTYPES = (torch.float64, torch.float32)


def _recurrence(
    kind="delta",
    decay="head",
    old=False,
    reads_first=False,
    *,
    dtype=torch.float64,
    batch=2,
    time=11,
    heads=2,
    sizes=(3, 2),
    strong=False,
    step=True,
    seed=0,
) -> LinearRecurrence:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    lead, (keys, values) = (batch, time, heads), sizes
    key = torch.nn.functional.normalize(normal(*lead, keys), dim=-1)
    erase = torch.nn.functional.normalize(normal(*lead, keys), dim=-1) if kind == "erase" else None
    read = None if kind == "additive" else key + normal(*lead, keys) * 0.1
    shape = lead if decay == "head" else (*lead, keys)
    gates = (
        STRONG[torch.randint(len(STRONG), shape, generator=generator)]
        if strong
        else -torch.rand(shape, generator=generator)
    )
    steps = torch.rand(lead, generator=generator, dtype=torch.float64).to(dtype) if step else None
    return LinearRecurrence(
        normal(*lead, keys),
        key,
        normal(*lead, values),
        read,
        erase,
        steps,
        None if decay is None else gates.to(dtype),
        normal(batch, heads, keys, values),
        old=old,
        reads_first=reads_first,
    )


def _cotangents(r: LinearRecurrence, seed=1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (r.value.shape, r.memory.shape)
    return tuple(
        torch.randn(shape, generator=generator, dtype=torch.float64).to(r.query.dtype) for shape in shapes
    )


def _by_definition(r: LinearRecurrence) -> dict[str, Tensor]:
    """Read-outs, final memory and gradients in float64 by autograd."""
    fields = [x.double() if isinstance(x, Tensor) else x for x in r]
    wide, named = leaves(
        LinearRecurrence(*fields)._replace(read=fields[1]) if r.read is r.key else LinearRecurrence(*fields)
    )
    y, last = literally(wide)
    total = sum((x * weight.double()).sum() for x, weight in zip((y, last), _cotangents(r)))
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True, materialize_grads=True)
    return {"y": y, "last": last} | {f"gradient of {name}": g for name, g in zip(named, gradients)}


def _by_kernel(r: LinearRecurrence, chunk: int) -> dict[str, Tensor]:
    kernel = NativeKernel()
    y, last, saved = kernel.forward(r, chunk, save=True)
    assert tuple(x.numel() for x in saved) == kernel.saved_sizes(r, chunk)
    gradients = kernel.backward(r, chunk, saved, *_cotangents(r))
    return {"y": y, "last": last} | {
        f"gradient of {name}": g for name, g in zip(INPUTS, gradients) if g is not None
    }


def _check(r: LinearRecurrence, chunk: int) -> None:
    found, expected = _by_kernel(r, chunk), _by_definition(r)
    assert found.keys() == expected.keys()
    errors = {name: error(found[name], expected[name]) for name in expected}
    assert max(errors.values()) <= tolerance(r.query.dtype), errors


@pytest.fixture(params=ISAS)
def isa(request):
    """Run the kernels of one instruction set."""
    with tier(request.param):
        yield request.param


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("strong", [False, True], ids=["", "strong"])
@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_definition(isa, kind, decay, order, strong, dtype):
    if not strong or decay:
        _check(_recurrence(kind, decay, *order, dtype=dtype, strong=strong), chunk=4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("strong", [False, True], ids=["", "strong"])
@pytest.mark.parametrize("chunk", [16, pytest.param(32, marks=pytest.mark.full), 64])
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_definition_in_full_chunks(isa, kind, decay, chunk, strong, dtype):
    """Odd sizes, several checkpoint intervals, the last chunk partial."""
    if not strong or decay:
        _check(_recurrence(kind, decay, dtype=dtype, batch=1, time=301, sizes=(40, 72), strong=strong), chunk)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_far_longer_than_the_memory_is_wide(isa, kind):
    """Scores between the halves of a chunk are then wider than any transpose."""
    _check(_recurrence(kind, "channel", batch=1, time=300, heads=1, sizes=(16, 16), strong=True), chunk=256)


@pytest.mark.parametrize("time", [0, 1, 3, 4, 5, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_borders_of_chunks(kind, time):
    _check(_recurrence(kind, "channel", time=time), chunk=4)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_step(kind):
    _check(_recurrence(kind, "head", time=40, step=False), chunk=16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("decay", DECAYS)
def test_nearly_equal_keys_with_step_one(isa, decay, dtype):
    """Where an inverse by doubling over the whole chunk would lose all digits."""
    r = _recurrence("delta", decay, dtype=dtype, batch=1, time=128, sizes=(32, 32), step=False)
    key = torch.nn.functional.normalize(r.key * 0.01 + r.key[:, :1], dim=-1)
    log_decay = None if decay is None else r.log_decay * 0.001
    _check(r._replace(key=key, read=key, log_decay=log_decay), chunk=32)


def test_strides():
    """Views over batch, time, heads and channels equal contiguous tensors, to the last bit."""
    r = _recurrence("erase", "channel", time=20, sizes=(8, 8))

    def view(x: Tensor | None) -> Tensor | None:
        if x is None or x.ndim == 3:
            return x if x is None else torch.stack([x, x], dim=-1)[..., 0]
        return torch.cat([x, x], dim=-1).transpose(0, 2).contiguous().transpose(0, 2)[..., : x.shape[-1]]

    turned = r._replace(**{name: view(getattr(r, name)) for name in INPUTS})._replace(
        value=r.value.mT.contiguous().mT
    )
    for name, value in _by_kernel(turned, 8).items():
        assert torch.equal(value, _by_kernel(r, 8)[name]), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_threads_change_no_bit(dtype):
    r, threads = (
        _recurrence("erase", "channel", dtype=dtype, time=300, heads=9, sizes=(20, 24)),
        torch.get_num_threads(),
    )
    try:
        torch.set_num_threads(1)
        one = _by_kernel(r, 32)
        torch.set_num_threads(2)
        two = _by_kernel(r, 32)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_causal_to_the_last_bit(isa, kind, decay):
    """A later token of the chunk, and in particular its decay, changes no bit of earlier read-outs."""
    r, token = _recurrence(kind, decay, dtype=torch.float32, time=64, sizes=(24, 16)), 41
    other = _recurrence(kind, decay, dtype=torch.float32, time=64, sizes=(24, 16), strong=True, seed=3)

    def spliced(x: Tensor | None, late: Tensor | None) -> Tensor | None:
        return None if x is None else torch.cat([x[:, :token], late[:, token:]], dim=1)

    changed = r._replace(
        **{name: spliced(getattr(r, name), getattr(other, name)) for name in INPUTS if name != "memory"}
    )
    assert torch.equal(
        NativeKernel().forward(r, 32, False)[0][:, :token],
        NativeKernel().forward(changed, 32, False)[0][:, :token],
    )


def test_nothing_is_saved_unless_asked():
    r = _recurrence()
    y, last, saved = NativeKernel().forward(r, 4, save=False)
    assert [x.numel() for x in saved] == [0, 0, 0]
    again = NativeKernel().forward(r, 4, save=True)
    assert torch.equal(y, again[0]) and torch.equal(last, again[1])


def test_an_infinity_spreads_as_in_the_definition():
    """It does not spread into earlier chunks, other heads or other columns of the values."""
    r = _recurrence("delta", "head", time=12)
    value = r.value.clone()
    value[0, 6, 0, 0] = torch.inf
    y = NativeKernel().forward(r._replace(value=value), 4, False)[0]
    finite = torch.isfinite(y)
    assert (
        finite[1:].all()
        and finite[:, :4].all()
        and finite[:, :, 1:].all()
        and finite[..., 1].all()
        and not finite[0, 6:, 0, 0].any()
    )


def test_arguments_have_the_size_of_those_in_c():
    """A field that only one side has shifts all later ones; two exchanged fields would show in the
    results."""
    for dtype in DTYPES:
        assert library.function("recurrence_size", dtype)() == ctypes.sizeof(_Arguments)
