"""The compiled scan against the chunkwise form in float64, on every instruction set: all shapes of blocks of
heads, decays, steps, strides and numbers of threads."""

import dataclasses
from unittest import mock

import pytest
import torch

import ttr
from tests.tiers import ISAS, tier
from ttr import dispatch
from ttr.engines import linear_operator
from ttr.engines.native import library
from ttr.engines.native.scan import NativeScan
from ttr.engines.torch.linear import chunkwise
from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.functions import Linear
from ttr.laws.rows import Sizes, make_case
from ttr.laws.tolerances import FLOAT32, FLOAT64, error
from ttr.solvers import DiagonalImplicitDeltaRule

pytestmark = pytest.mark.skipif(not library.available(), reason=library.reason() or "")

BLOCKS = {
    "one channel, two blocks of heads": {"heads": 300, "key": 1, "time": 20},
    "two blocks, two values, a scale": {"heads": 270, "key": 1, "value": 2, "time": 9, "scale": 0.3},
    "one channel, two values": {"heads": 7, "key": 1, "value": 2},
    "one channel, no decay": {"heads": 5, "key": 1, "decay": None},
    "one channel, a step": {"heads": 5, "key": 1, "value": 2, "decay": "head", "step": True},
    "sixteen channels, a block that is not full": {"heads": 40, "key": 16, "time": 9},
    "channels that fill no vector": {"heads": 3, "key": 5, "value": 2, "step": True},
    "more channels than a block has entries": {"heads": 2, "key": 270, "time": 5},
    "a decay of heads": {"heads": 4, "key": 6, "decay": "head"},
    "no decay": {"heads": 4, "key": 6, "decay": None, "step": True},
    "reads first": {"heads": 4, "key": 6, "value": 2, "reads_first": True},
    "one channel, reads first": {"heads": 4, "key": 1, "value": 2, "reads_first": True},
    "two pairs a token": {"heads": 4, "key": 3, "pairs": 2, "time": 14},
    "keys of all heads are one": {"heads": 20, "key": 16, "shared": True},
    "one channel, keys of all heads are one": {"heads": 20, "key": 1, "shared": True},
    "a factor times rates": {"heads": 40, "key": 16, "decay": "head", "rates": True, "shared": True},
    "a factor times rates, two blocks": {"heads": 300, "key": 1, "value": 2, "decay": "head", "rates": True},
    "a factor times rates, reads first": {
        "heads": 3,
        "key": 5,
        "value": 2,
        "decay": "head",
        "rates": True,
        "reads_first": True,
        "step": True,
    },
    "a scale, one token": {"heads": 3, "key": 4, "time": 1, "scale": 0.3},
    "one head's keys, rates, two tasks": {
        "heads": 71,
        "key": 16,
        "decay": "head",
        "rates": True,
        "one": True,
    },
    "one head's keys, a decay of heads": {"heads": 20, "key": 3, "value": 2, "decay": "head", "one": True},
    "one head's keys, no decay, a step, one channel": {
        "heads": 18,
        "key": 1,
        "decay": None,
        "step": True,
        "one": True,
    },
    "one head's keys, all at once": {
        "heads": 33,
        "key": 5,
        "value": 2,
        "decay": "head",
        "rates": True,
        "reads_first": True,
        "step": True,
        "scale": 0.3,
        "one": True,
    },
}


def recurrence(heads, key, **others):
    """Random tensors; ``shared`` keys and queries are views of one head's, and with ``one`` they have one
    head."""
    given = {"value": 1, "time": 23, "batch": 2, "decay": "channel", "step": False, "pairs": 1} | others
    value, time, batch, decay, pairs = (given[name] for name in ("value", "time", "batch", "decay", "pairs"))
    shared, one, rates = (given.get(name, False) for name in ("shared", "one", "rates"))
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def rows(tokens):
        return (
            normal(batch, tokens, 1, key).expand(-1, -1, heads, -1)
            if shared
            else normal(batch, tokens, 1 if one else heads, key)
        )

    length = time * pairs
    log_decay = None
    if decay is not None:
        shape = (batch, length, heads, key) if decay == "channel" else (batch, length, heads)
        log_decay = -torch.rand(shape, generator=generator, dtype=torch.float64) * 2
        log_decay[:, length // 2] = -80.0  # a reset
        log_decay = log_decay * (torch.arange(length) % pairs == 0).view(length, *(1,) * (log_decay.ndim - 2))
    return LinearRecurrence(
        query=rows(time),
        key=rows(length),
        value=normal(batch, length, heads, value),
        read=None,
        erase=None,
        step=normal(batch, length, heads) if given["step"] else None,
        log_decay=log_decay,
        memory=normal(batch, heads, key, value),
        rates=normal(heads, key).exp() if rates else None,
        pairs=pairs,
        reads_first=given.get("reads_first", False),
        scale=given.get("scale", 1.0),
    )


def outcome(run, r):
    """Read-outs, memory and the gradients of all tensors."""
    names = [name for name in r._fields[: linear_operator.TENSORS] if getattr(r, name) is not None]
    leaves = [getattr(r, name).detach().requires_grad_() for name in names]
    y, memory = run(r._replace(**dict(zip(names, leaves))))
    weight = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).to(y)
    gradients = torch.autograd.grad((y * weight).sum() + memory.square().sum(), leaves)
    return {"y": y, "memory": memory} | dict(zip(names, gradients))


def scanned(r):
    return linear_operator.run(NativeScan.name, r, 4, True)


@pytest.mark.parametrize("way", ISAS)
@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("dtype, most", [(torch.float64, FLOAT64), (torch.float32, FLOAT32)], ids=str)
def test_a_scan_is_the_chunkwise_form(name, dtype, most, way):
    r = recurrence(**BLOCKS[name])
    expected = outcome(lambda r: chunkwise.run(r.general(), 4), r)
    given = r._replace(
        **{field: x.to(dtype) for field, x in r._asdict().items() if isinstance(x, torch.Tensor)}
    )
    with tier(way):
        found = outcome(scanned, given)
    for field, value in expected.items():
        every = r.pairs if field == "log_decay" else 1  # a token's decay is that of its first pair
        assert found[field].shape == value.shape
        assert error(found[field][:, ::every].double(), value[:, ::every]) < most, field


def test_results_do_not_depend_on_the_number_of_threads():
    r = recurrence(heads=300, key=3, batch=3)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(outcome(scanned, r))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in other)


@pytest.mark.parametrize("name", ["mamba", "hgrn"])
def test_blocks_of_tokens_change_nothing(name):
    """Whether a call is one block or many, whose derivative computes them again."""
    case = make_case(ttr.catalogue[name].problem, Sizes(time=70, heads=3, key=4, value=1)).differentiable()
    results = []
    for engine in (NativeScan(), NativeScan(entries=1, run_length=16)):
        y = ttr.regress(case.problem, **case.arguments(), engine=engine)
        results.append((y, *torch.autograd.grad(y.square().sum(), (case.q, case.k, case.v))))
    assert all(error(a, b) < FLOAT64 for a, b in zip(*results, strict=True))


def lowered(problem):
    """What the kernel is given for a call."""
    found = []
    case = make_case(problem, Sizes(value=1))
    arguments = case.arguments() | {"q": case.q[:, :, :1], "k": case.k[:, :, :1]}
    with mock.patch.object(NativeScan, "scan", lambda self, form, grad: found.append(form) or stop()):
        with pytest.raises(KeyboardInterrupt):
            ttr.regress(problem, **arguments, engine="native-scan")
    return found[0]


def stop():
    raise KeyboardInterrupt


def test_rates_are_multiplied_in_the_kernel_where_nothing_else_decays():
    mamba = ttr.catalogue["mamba"].problem
    form = lowered(mamba)
    assert form.rates is not None and form.log_decay.ndim == 3
    assert form.query.shape[2] == form.key.shape[2] == 1 < form.value.shape[2]
    other = dataclasses.replace(mamba, solver=DiagonalImplicitDeltaRule(), function=Linear())
    form = lowered(other)
    assert form.rates is None and form.log_decay.ndim == 4


@pytest.mark.parametrize("key", [1, 5])
@pytest.mark.parametrize("decay, rates", [("head", True), ("head", False), ("channel", False)])
def test_what_is_no_number_stays_none(key, decay, rates):
    """Where checks of values are off, as under torch.compile."""
    r = recurrence(heads=3, key=key, decay=decay, rates=rates)
    for field in ("log_decay", "key", *["rates"] * rates):
        broken = getattr(r, field).clone()
        broken[0] = torch.nan
        y, memory = linear_operator.run(NativeScan.name, r._replace(**{field: broken}), 4, False)
        assert y.isnan().any() and memory.isnan().any()


@pytest.mark.parametrize("way", ISAS)
@pytest.mark.parametrize("key, decay, rates", [(1, "head", False), (5, "channel", False), (5, "head", True)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_positive_log_decay_gives_no_number(dtype, key, decay, rates, way):
    r = recurrence(heads=18, key=key, decay=decay, rates=rates)
    r = r._replace(**{name: x.to(dtype) for name, x in r._asdict().items() if isinstance(x, torch.Tensor)})
    log_decay = r.log_decay.clone()
    log_decay[0, 3, 2] = 1e-9
    with tier(way):
        y, _ = linear_operator.run(NativeScan.name, r._replace(log_decay=log_decay), 4, False)
    assert y[0, 3:, 2].isnan().any() and y[0, :3].isfinite().all() and y[0, :, 3:].isfinite().all()


def call():
    """A call of HGRN's memory, with resets."""
    case = make_case(ttr.catalogue["hgrn"].problem, Sizes(time=70, heads=3, key=1, value=1)).differentiable()
    arguments = {"problem": case.problem} | case.arguments()
    log_decay = arguments["log_decay"].detach().clone()
    log_decay[:, 3], log_decay[:, 5] = -torch.inf, -200.0
    return arguments | {"log_decay": log_decay.requires_grad_()}


def derivatives(y, arguments, **options):
    leaves = [arguments[name] for name in ("q", "k", "v", "log_decay")]
    return torch.autograd.grad(y.square().sum(), leaves, **options)


def test_a_bound_call_of_any_length_has_the_gradients_of_the_general_path(monkeypatch):
    arguments = call()
    expected = ttr.regress(**arguments, engine="recurrent")
    gradients = derivatives(expected, arguments, create_graph=True)
    second = derivatives(gradients[2], arguments)
    ttr.regress(**arguments)
    monkeypatch.setattr(dispatch, "prepare", None)  # the general path
    y, state = ttr.regress(**arguments, return_state=True)
    found = derivatives(y, arguments, create_graph=True)
    assert error(y, expected) < FLOAT64 and state.position.tolist() == [70, 70]
    assert all(error(a, b) < FLOAT64 for a, b in zip(found, gradients, strict=True))
    assert all(error(a, b) < FLOAT64 for a, b in zip(derivatives(found[2], arguments), second, strict=True))


@pytest.mark.parametrize(
    "name, number", [("q", torch.nan), ("k", torch.inf), ("v", torch.nan), ("log_decay", 0.5)]
)
def test_a_bound_call_refuses_what_the_first_one_refuses(name, number):
    arguments = call()
    ttr.regress(**arguments)
    wrong = arguments[name].detach().clone()
    wrong[1, 69, 2] = number
    for attempt in (wrong, wrong.clone().requires_grad_()):
        with pytest.raises(ValueError, match=name):
            ttr.regress(**arguments | {name: attempt})


def test_the_kernel_without_an_operator_gives_its_gradients():
    r = recurrence(heads=5, key=3)
    direct = outcome(scanned, r)
    with mock.patch.object(linear_operator, "watched", lambda tensors: True):
        operator = outcome(scanned, r)
    assert all(torch.equal(direct[name], operator[name]) for name in operator)


def test_auto_scans_few_value_channels_and_steps_through_the_kernel():
    x = torch.randn(1, 6, 4, 1)
    memory = ttr.catalogue["hgrn"].problem
    decay = -x.abs()
    assert ttr.explain(memory, x, x, x, log_decay=decay).engine == "native-scan"
    wide = x.expand(-1, -1, -1, 5)
    assert ttr.explain(memory, x, x, wide, log_decay=decay).engine != "native-scan"
    case = make_case(memory, Sizes(time=6, heads=4, key=1, value=1), dtype=torch.float32)
    whole, state = ttr.regress(case.problem, **case.arguments(), return_state=True)
    held = ttr.initial_state(memory, 2, 4, 1, 1)
    for t in range(6):
        controls = {name: x[:, t] for name, x in case.controls.items()}
        y, held = ttr.step(memory, case.q[:, t], case.k[:, t], case.v[:, t], held, **controls)
        assert error(y, whole[:, t]) < FLOAT32
    assert error(held["memory"], state["memory"]) < FLOAT32
